"use strict";
// Rows of a page, searched, filtered and shown twenty at a time; `browse.js` and `report.js` say what a row is.

// An element with parts; texts are always text nodes, never markup.
function make(tag, className, ...parts) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...parts.filter((part) => part !== null));
  return element;
}

const folds = (text) => text.normalize("NFKC").toLowerCase();

function counted(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

// Shows what of `rows` the form asks for.
//   texts: of each row, what its words are looked for in
//   choices: fields of a row for which the form has a list of values
//   fits: wanted values -> whether a row fits, beyond words and choices
//   orders: comparisons by the value of the form's order; without one the rows stay as they are
//   show: an element of a row
//   ownsPage: whether address and keys are the rows' alone; else both are left to the rest of the page
// Gives `changed`, to be called after a field of the form was set by a script.
function paged({ form, rows, texts, choices, fits = () => () => true, orders = {}, show, noun, ownsPage }) {
  const ROWS_PER_PAGE = 20;
  const list = document.getElementById("rows");
  const state = document.getElementById("state");
  const pagers = [...document.querySelectorAll(".pager")];
  const folded = texts.map(folds);
  const number = (value) => value.toLocaleString("en");
  let shown = [], first = 0;

  function offer() {
    for (const name of choices) {
      const counts = counted(rows.filter((row) => row[name]).map((row) => row[name]));
      const select = form.elements[name];
      for (const value of [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }))) {
        const option = make("option", "", `${value} (${counts.get(value)})`);
        option.value = value;
        select.append(option);
      }
      select.closest("label").hidden = counts.size < 2;
    }
  }

  function select() {
    const wanted = Object.fromEntries(new FormData(form));
    const words = folds(wanted.words).split(/\s+/).filter(Boolean);
    const fitting = fits(wanted);
    shown = rows.filter((row, i) =>
      choices.every((name) => !wanted[name] || row[name] === wanted[name]) &&
      fitting(row) && words.every((word) => folded[i].includes(word)));
    if (wanted.order) shown.sort(orders[wanted.order]);
  }

  function draw() {
    first = Math.max(0, Math.min(first, Math.floor((shown.length - 1) / ROWS_PER_PAGE) * ROWS_PER_PAGE));
    const end = Math.min(first + ROWS_PER_PAGE, shown.length);
    list.replaceChildren(...shown.slice(first, end).map(show));
    state.hidden = shown.length > 0;
    state.textContent = `No ${noun} fits; clear a filter.`;
    for (const pager of pagers) {
      pager.querySelector("output").textContent = shown.length
        ? `${number(first + 1)} to ${number(end)} of ${number(shown.length)} ${noun}s` : `0 ${noun}s`;
      pager.querySelector(".previous").disabled = first === 0;
      pager.querySelector(".next").disabled = end >= shown.length;
    }
  }

  // The address keeps what is looked for, so that it can be passed on.
  function remember() {
    if (!ownsPage) return;
    const kept = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    if (first) kept.set("from", String(first));
    try {
      history.replaceState(null, "", `#${kept}`);
    } catch {
      // an address that may not be changed, as in some previews
    }
  }

  function recall() {
    if (!ownsPage) return;
    const kept = new URLSearchParams(location.hash.slice(1));
    form.reset();
    for (const [name, value] of kept) {
      const field = form.elements.namedItem(name);
      if (field && field.type === "checkbox") field.checked = true;
      else if (field) field.value = value;
    }
    first = Math.floor((+kept.get("from") || 0) / ROWS_PER_PAGE) * ROWS_PER_PAGE;
  }

  function changed() {
    first = 0;
    select();
    draw();
    remember();
  }

  function turn(pages) {
    const before = first;
    first += pages * ROWS_PER_PAGE;
    if (first < 0 || first >= shown.length) {
      first = before;
      return;
    }
    draw();
    remember();
    pagers[0].scrollIntoView({ block: "start" });
  }

  offer();
  recall();
  select();
  draw();

  let waiting;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(changed, 120);
  });
  form.addEventListener("reset", () => setTimeout(changed));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const pager of pagers) {
    pager.querySelector(".previous").addEventListener("click", () => turn(-1));
    pager.querySelector(".next").addEventListener("click", () => turn(1));
  }
  if (ownsPage) {
    addEventListener("hashchange", () => {
      recall();
      select();
      draw();
    });
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) return;
      if (event.key === "/") form.elements.words.focus();
      else if (event.key === "ArrowRight") turn(1);
      else if (event.key === "ArrowLeft") turn(-1);
      else return;
      event.preventDefault();
    });
  }
  return { changed };
}
