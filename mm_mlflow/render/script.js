// Every page works without this; with it, fragment links work in MLflow's sandbox and tables sort.
(() => {
  "use strict";

  // MLflow shows pages as a blob in a sandboxed frame, where Chromium refuses to follow even a link to
  // the same page ("Not allowed to load local resource", seen).
  document.addEventListener("click", event => {
    const link = event.target.closest('a[href^="#"]');
    const target = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault();
    target.tabIndex = -1;
    target.focus({preventScroll: true});
    target.scrollIntoView();
  });

  const NUMBER = /-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?/i;
  const TEXTS = new Intl.Collator(undefined, {numeric: true});

  // The first number of "≥ 2.36", "97.08 ± 0.31", "12.30 †", "1,078"; null for holes ("–", "missing").
  const number = text => {
    const found = NUMBER.exec(text);
    return found && Number(found[0].replaceAll(",", ""));
  };

  // What a cell sorts by: a level's whole name, without its mark "default"; else its text.
  const text = cell => (cell.querySelector(".name") || cell).textContent.trim();

  // Header cells of single columns, with the column's place; cells of the rows above span several.
  const columns = table => {
    const found = [];
    const taken = [];  // per row of the head, the places that a cell from above covers
    [...table.tHead.rows].forEach((row, y) => {
      let x = 0;
      for (const cell of row.cells) {
        while (taken[y]?.has(x)) x += 1;
        for (let i = 0; i < cell.rowSpan; i += 1) {
          taken[y + i] ??= new Set();
          for (let j = 0; j < cell.colSpan; j += 1) taken[y + i].add(x + j);
        }
        if (cell.colSpan === 1) found.push([cell, x]);
        x += cell.colSpan;
      }
    });
    return found;
  };

  // Rows move with what belongs to them: whole bodies, where a table has several.
  const items = table =>
    table.tBodies.length > 1
      ? [...table.tBodies].map(body => [body, body.rows[0]])
      : [...table.tBodies[0].rows].map(row => [row, row]);

  // Values to compare by; null sorts last. Only the first column holds names, which may be numbers too.
  const values = (rows, place) => {
    const texts = rows.map(row => text(row.cells[place]));
    const isNumber = place > 0 || texts.every(t => NUMBER.exec(t)?.[0] === t);
    return isNumber ? texts.map(number) : texts;
  };

  const compare = (a, b) => (typeof a === "string" ? TEXTS.compare(a, b) : a - b);

  const sortable = table => {
    const original = items(table);
    let header = null;  // what the table is sorted by now
    const sort = (chosen, place) => {
      // Names and levels rise first, values fall; a third click brings the order of the page back.
      const order = place ? ["descending", "ascending"] : ["ascending", "descending"];
      const next = order[chosen === header ? order.indexOf(chosen.getAttribute("aria-sort")) + 1 : 0];
      header?.removeAttribute("aria-sort");
      header = next ? chosen : null;
      const sorted = original.map((item, i) => [item[0], i]);
      if (next) {
        chosen.setAttribute("aria-sort", next);
        const keys = values(original.map(item => item[1]), place);
        const sign = next === "ascending" ? 1 : -1;
        sorted.sort(([, i], [, j]) => {
          const [a, b] = [keys[i], keys[j]];
          if (a === null || b === null) return (a === null) - (b === null) || i - j;
          return sign * compare(a, b) || i - j;
        });
      }
      const parent = original[0][0].parentNode;
      const end = parent === table ? table.tFoot : null;
      for (const [element] of sorted) parent.insertBefore(element, end);
    };
    for (const [cell, place] of columns(table)) {
      if (cell.matches(".plot")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      const name = place ? button.textContent : (table.caption || button).textContent;
      button.title = `Sort by ${name}`;
      button.addEventListener("click", () => sort(cell, place));
      cell.append(button);
    }
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    if (items(table).length > 1) sortable(table);
  }
})();
