// The report's samples: without this script they lie in closed groups; with it they are searched and paged.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const articles = [...document.querySelectorAll("#groups article")];
  const rows = articles.map((element) => ({ ...element.dataset, element }));
  document.getElementById("groups").hidden = true;
  document.getElementById("browser").hidden = false;
  paged({
    form,
    rows,
    texts: articles.map((element) => element.textContent),
    choices: ["kind", "verdict", "domain", "level"],
    show: (row) => row.element,
    noun: "sample",
    ownsPage: false,
  });
})();
