"""What integrations into frameworks inherit: fields, models that load lazily, collectors of pieces."""
