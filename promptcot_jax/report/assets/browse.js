(async () => {
  const RANGES = ["agreement", "pass_share"];
  const form = document.getElementById("filters");
  const state = document.getElementById("state");

  const SYMBOLS = {
    cdot: "·", times: "×", div: "÷", pm: "±", mp: "∓", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠",
    lt: "<", gt: ">", approx: "≈", equiv: "≡", sim: "∼", cong: "≅", propto: "∝", infty: "∞", sum: "∑", prod: "∏", int: "∫",
    partial: "∂", nabla: "∇", in: "∈", notin: "∉", subset: "⊂", subseteq: "⊆", cup: "∪", cap: "∩", setminus: "∖",
    emptyset: "∅", varnothing: "∅", to: "→", rightarrow: "→", leftarrow: "←", mapsto: "↦", Rightarrow: "⇒", implies: "⇒",
    iff: "⇔", Leftrightarrow: "⇔", forall: "∀", exists: "∃", neg: "¬", land: "∧", lor: "∨", wedge: "∧", vee: "∨", oplus: "⊕",
    ldots: "…", cdots: "⋯", dots: "…", vdots: "⋮", angle: "∠", triangle: "△", perp: "⊥", parallel: "∥", circ: "°", degree: "°",
    mid: "|", nmid: "∤", vert: "|", lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", langle: "⟨", rangle: "⟩", star: "⋆",
    ast: "∗", prime: "′", ell: "ℓ", quad: "  ", qquad: "    ", alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε",
    varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ", iota: "ι", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π",
    rho: "ρ", sigma: "σ", tau: "τ", phi: "φ", varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ",
    Lambda: "Λ", Xi: "Ξ", Pi: "Π", Sigma: "Σ", Phi: "Φ", Psi: "Ψ", Omega: "Ω",
  };
  for (const name of ["sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln", "exp", "gcd", "lcm",
    "max", "min", "lim", "det", "mod", "deg", "dim", "ker", "sup", "inf", "Pr"]) SYMBOLS[name] = name;
  const LETTERS = { R: "ℝ", Z: "ℤ", N: "ℕ", Q: "ℚ", C: "ℂ", P: "ℙ", F: "𝔽" };
  const RAISED = { "^": ["0123456789+-=()nix", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ"], _: ["0123456789+-=()aeoxijkmn", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓᵢⱼₖₘₙ"] };

  const grouped = (text) => (/^[\w.√]*$/u.test(text) ? text : `(${text})`);

  function raised(mark, text) {
    const [plain, drawn] = RAISED[mark];
    const places = [...text].map((letter) => plain.indexOf(letter));
    if (text && !places.includes(-1)) return places.map((place) => [...drawn][place]).join("");
    return text === "°" || text === "′" ? text : mark + grouped(text);
  }

  // TeX as a line of text: common commands by their signs, the rest as it stands.
  function readable(tex) {
    let text = tex
      .replace(/\\(?:left|right|displaystyle|limits|big|Big|bigg|Bigg|bigl|bigr)(?![A-Za-z])\s?/g, "")
      .replace(/\\mathbb\s*\{([A-Z])\}/g, (whole, letter) => LETTERS[letter] ?? letter)
      .replace(/\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathcal|boldsymbol|operatorname)\*?\s*\{([^{}]*)\}/g, "$1")
      .replace(/\\pmod\s*\{([^{}]*)\}/g, "(mod $1)")
      .replace(/\\bmod(?![A-Za-z])/g, "mod")
      .replace(/\\([A-Za-z]+)/g, (whole, name) => SYMBOLS[name] ?? whole)
      .replace(/\\([%$#&_])/g, "$1")
      .replace(/\\\\/g, "\n")
      .replace(/\\[,;:! ]/g, " ");
    for (let before = ""; before !== text; ) { // from the innermost braces outwards
      before = text;
      text = text
        .replace(/([\^_])\s*\{([^{}]*)\}/g, (whole, mark, inner) => raised(mark, inner))
        .replace(/\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}/g, (whole, above, below) => `${grouped(above)}/${grouped(below)}`)
        .replace(/\\[dt]?frac\s*(\d)\s*(\d)/g, "$1/$2")
        .replace(/\\sqrt\s*\[([^\]]*)\]\s*\{([^{}]*)\}/g, (whole, root, inner) => `${raised("^", root)}√${grouped(inner)}`)
        .replace(/\\sqrt\s*\{([^{}]*)\}/g, (whole, inner) => `√${grouped(inner)}`)
        .replace(/\\[dt]?binom\s*\{([^{}]*)\}\s*\{([^{}]*)\}/g, "C($1, $2)")
        .replace(/\\(?:overline|bar)\s*\{([^{}]*)\}/g, "‾($1)")
        .replace(/\\boxed\s*\{([^{}]*)\}/g, "[$1]");
    }
    return text.replace(/([\^_])([A-Za-z0-9°′])/g, (whole, mark, letter) => raised(mark, letter)).replace(/\\([{}])/g, "$1");
  }

  // A dollar opens mathematics before a sign, and closes it after one and before no digit: "$5 and $6" is none.
  const MATHEMATICS = /\$\$([^]+?)\$\$|\\\[([^]+?)\\\]|\\\(([^]+?)\\\)|\$(?!\s)((?:\\.|[^$\\])+?)(?<!\s)\$(?!\d)/g;

  function prose(text) {
    const element = make("div", "prose");
    if (form.elements.tex.checked) {
      element.append(text);
      return element;
    }
    let end = 0;
    for (const found of text.matchAll(MATHEMATICS)) {
      element.append(text.slice(end, found.index), make("span", "tex", readable(found[1] ?? found[2] ?? found[3] ?? found[4])));
      end = found.index + found[0].length;
    }
    element.append(text.slice(end));
    return element;
  }

  const inline = (text) => (form.elements.tex.checked ? text : readable(text));
  const percent = (share) => `${+(100 * share).toFixed(1)} %`;
  const number = (value) => (Number.isInteger(value) ? String(value) : String(+value.toFixed(4)));

  // ---- one row

  function folded(summary, ...parts) {
    return make("details", "", make("summary", "", summary), ...parts);
  }

  function table(header, rows) {
    const head = make("thead", "", make("tr", "", ...header.map((name) => make("th", "", name))));
    const body = make("tbody", "", ...rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "words", cell)))));
    return make("div", "scroll", make("table", "", head, body));
  }

  const LINEAGE = [
    ["source", "source"], ["annotator", "annotator"], ["model digest", "model_digest"], ["round", "round_index"], ["seed", "seed"],
    ["sample", "sample"], ["log p(z|c)", "log_p_z"], ["log p(x|z,c)", "log_p_x"], ["filters passed", "filters"], ["checks passed", "checks"],
    ["concepts in words", "concepts_in_words"], ["concepts in meaning", "concepts_in_meaning"], ["nearest seed, cosine", "seed_similarity"],
    ["solver", "solver"], ["solutions", "num_solutions"], ["mean tokens of a solution", "mean_tokens"],
  ];

  function lineage(row) {
    const written = "model_digest" in row && row.model_digest !== "";
    const places = { round_index: row.round_index < 0 ? "cold start, or a given model" : row.round_index };
    const details = make("dl", "");
    for (const [label, field] of LINEAGE) {
      if (!(field in row) || row[field] === "" || (Array.isArray(row[field]) && !row[field].length)) continue;
      if (!written && ["round_index", "seed", "sample", "log_p_z", "log_p_x"].includes(field)) continue;
      if (!written && /^(concepts_in|seed_sim)/.test(field)) continue;
      if (!row.num_solutions && ["num_solutions", "mean_tokens"].includes(field)) continue;
      const value = places[field] ?? row[field];
      const text = Array.isArray(value) ? value.join(", ") : typeof value === "number" ? number(value) : value;
      details.append(make("dt", "", label), make("dd", "", text));
    }
    return folded("Lineage", details);
  }

  function votes(row) {
    const counted = row.votes.map((group) => [inline(group.answer), String(group.samples.length), group.samples.join(", ")]);
    const silent = row.num_solutions - row.votes.reduce((sum, group) => sum + group.samples.length, 0);
    if (silent > 0) counted.push(["(no answer)", String(silent), ""]);
    return folded(`Votes of ${row.num_solutions} solutions`, table(["answer", "votes", "samples"], counted));
  }

  function tests(row) {
    const agreed = row.test_agreements ?? [];
    const rows = row.tests.map((test, i) => [
      make("pre", "", test.input), make("pre", "", test.output), agreed.length > i ? percent(agreed[i]) : "–",
    ]);
    return folded(`${row.tests.length} tests`, table(["input", "output", "agreement"], rows));
  }

  function chip(concept) {
    const button = make("button", "chip", concept);
    button.type = "button";
    button.title = `Only problems with the concept "${concept}"`;
    button.addEventListener("click", () => {
      form.elements.concept.value = concept;
      list.changed();
      form.elements.concept.focus();
    });
    return button;
  }

  function card(row) {
    const scores = make("div", "scores");
    const add = (label, value) => scores.append(make("span", "", `${label} `, make("b", "", value)));
    if (row.num_solutions) {
      add("agreement", percent(row.agreement));
      add("solved", percent(row.pass_share));
      if (row.pool) add("pool", row.pool);
      if (row.num_mutants) add("mutants refused", `${percent(row.kill_rate)} of ${row.num_mutants}`);
    }
    const level = row.level ? make("span", "chip", /^\d+$/.test(row.level) ? `Level ${row.level}` : row.level) : null;
    const article = make("article", "card", make("h2", "mono", `${row.id} · ${row.domain} · ${row.split}`));
    article.append(make("div", "chips", ...row.concepts.map(chip), level), prose(row.problem));
    if (row.answer) article.append(make("p", "answer", `Answer: ${inline(row.answer)}`));
    if (row.given_answer) article.append(make("p", "note", `Answer that came with it: ${inline(row.given_answer)}`));
    article.append(scores);
    if (row.rationale) article.append(folded("Rationale", prose(row.rationale)));
    if (row.votes && row.votes.length) article.append(votes(row));
    if (row.tests && row.tests.length) article.append(tests(row));
    if (row.solution) article.append(folded("Solution", row.domain === "code" ? make("pre", "", row.solution) : prose(row.solution)));
    article.append(lineage(row));
    return article;
  }

  // ---- the set

  async function unpacked() {
    const bytes = Uint8Array.from(atob(document.getElementById("set").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  let rows;
  try {
    rows = await unpacked();
  } catch (error) {
    state.textContent = `The rows could not be unpacked (${error}); this page needs a browser of 2023 or later.`;
    return;
  }

  for (const name of RANGES) form.elements[`${name}_from`].closest("label").hidden = !rows.some((row) => row.num_solutions);
  const concepts = counted(rows.flatMap((row) => row.concepts));
  for (const [concept, count] of [...concepts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 1000)) {
    const option = make("option", "", `${count} problems`);
    option.value = concept;
    document.getElementById("concepts").append(option);
  }

  function within(row, name, wanted) {
    const low = wanted[`${name}_from`], high = wanted[`${name}_to`];
    if (low === "" && high === "") return true;
    return row.num_solutions > 0 && row[name] >= (low === "" ? 0 : +low) && row[name] <= (high === "" ? 1 : +high);
  }

  const list = paged({
    form,
    rows,
    texts: rows.map((row) => [row.id, row.problem, row.rationale, row.answer ?? "", ...row.concepts].join("\n")),
    choices: ["domain", "level", "split", "pool", "source"],
    fits: (wanted) => {
      const concept = folds(wanted.concept.trim());
      return (row) => RANGES.every((name) => within(row, name, wanted)) &&
        (!concept || row.concepts.some((own) => folds(own).includes(concept)));
    },
    orders: {
      hard: (a, b) => (a.pass_share ?? 1) - (b.pass_share ?? 1) || (b.mean_tokens ?? 0) - (a.mean_tokens ?? 0),
      doubtful: (a, b) => (a.agreement ?? 1) - (b.agreement ?? 1),
      long: (a, b) => b.problem.length - a.problem.length,
    },
    show: card,
    noun: "problem",
    ownsPage: true,
  });
})();
