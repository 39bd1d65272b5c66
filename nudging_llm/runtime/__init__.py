"""Who computes when: sessions, prefix cache, scheduler, and the requests and streams on top of them."""
