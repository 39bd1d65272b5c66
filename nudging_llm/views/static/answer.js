(function (root) {
  "use strict";
  if (!root || root.dataset.ready) return;
  root.dataset.ready = "1";
  const SOURCES = { b: "base model", n: "nudging model", g: "grammar" };
  root.querySelectorAll("article").forEach(function (card) {
    const [gamma, whys, rows] = JSON.parse(card.querySelector("script.data").textContent);
    const pieces = Array.from(card.querySelectorAll(".p"));
    const detail = card.querySelector(".detail");
    const slider = card.querySelector("input[type=range]");
    const hint = detail.textContent;
    let at = 0;
    let shown = null;

    function part(tag, text) {
      const node = document.createElement(tag);
      node.textContent = text;
      return node;
    }

    function show(i) {
      const piece = pieces[i];
      const [source, why, round, probability, choice, tokens] = rows[i];
      if (shown) shown.classList.remove("shown");
      shown = piece;
      piece.classList.add("shown");
      detail.replaceChildren(part("q", piece.textContent), " — ", part("strong", SOURCES[source]), ", " + whys[why]);
      detail.append(part("br", ""), "round " + round + ", " + tokens + (tokens === 1 ? " token" : " tokens"));
      if (probability !== null) {
        detail.append(", the base model was " + (100 * probability).toFixed(1) + " % sure");
        if (source === "n") {
          detail.append(choice === "" ? " that the text ends here" : " of ");
          if (choice !== "") detail.append(part("q", choice), ", which was rejected");
        }
      }
    }

    function focus(i) {
      if (i < 0 || i >= pieces.length) return;
      pieces[at].tabIndex = -1;
      at = i;
      pieces[at].tabIndex = 0;
      pieces[at].focus();
    }

    function nextNudge(step) {
      let i = at + step;
      while (i >= 0 && i < rows.length && rows[i][0] !== "n") i += step;
      return i;
    }

    const text = card.querySelector(".text");
    text.addEventListener("mouseover", function (event) {
      const i = pieces.indexOf(event.target.closest(".p"));
      if (i >= 0) show(i);
    });
    text.addEventListener("focusin", function (event) {
      const i = pieces.indexOf(event.target.closest(".p"));
      if (i >= 0) { pieces[at].tabIndex = -1; at = i; pieces[at].tabIndex = 0; show(i); }
    });
    text.addEventListener("click", function (event) {
      const i = pieces.indexOf(event.target.closest(".p"));
      if (i >= 0) focus(i);
    });
    text.addEventListener("keydown", function (event) {
      const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: pieces.length - 1 };
      let to = moves[event.key];
      if (event.key === "ArrowDown") to = nextNudge(1);
      if (event.key === "ArrowUp") to = nextNudge(-1);
      if (to === undefined) return;
      event.preventDefault();
      focus(to);
    });
    if (pieces.length) pieces[0].tabIndex = 0;

    const ribbon = card.querySelector("svg.ribbon");
    if (ribbon) {
      ribbon.addEventListener("click", function (event) {
        const box = ribbon.getBoundingClientRect();
        focus(Math.min(rows.length - 1, Math.floor(((event.clientX - box.left) / box.width) * rows.length)));
      });
    }

    if (slider) {
      const line = card.querySelector(".gamma");
      const estimate = card.querySelector(".estimate");
      slider.addEventListener("input", function () {
        const wanted = Number(slider.value);
        let below = 0, asked = 0;
        rows.forEach(function (row, i) {
          const known = row[3] !== null;
          const nudge = known && row[3] < wanted;
          asked += known;
          below += nudge;
          pieces[i].classList.toggle("would", nudge && row[0] === "b");
          pieces[i].classList.toggle("spared", known && !nudge && row[0] === "n" && row[1] !== "opening");
        });
        card.querySelector("output").textContent = wanted.toFixed(2);
        line.setAttribute("y1", 100 - 100 * wanted);
        line.setAttribute("y2", 100 - 100 * wanted);
        estimate.textContent = "Estimate: at γ = " + wanted.toFixed(2) + " the base model would be unsure at " + below + " of "
          + asked + " places (written with γ = " + gamma.toFixed(2) + "). The text after the first change would differ.";
      });
    }
    detail.title = hint;
  });
})(document.getElementById("ROOT"));
