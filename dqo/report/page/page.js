"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("page-data").textContent);
  const narrow = window.matchMedia("(max-width: 640px)").matches;
  const views = {}; // figure → its Vega views
  const chosen = {}; // signal of a figure → its value

  // ---------------------------------------------------------------- figures
  const options = {
    ast: true, // expressions are interpreted: the page's policy forbids eval
    renderer: "svg",
    logLevel: 1, // errors alone
    actions: { export: true, source: false, compiled: false, editor: false },
    config: { ...page.config, legend: { ...page.config.legend, columns: narrow ? 2 : 4 } },
  };

  async function draw(figure) {
    views[figure.id] = [];
    for (const [i, spec] of figure.panels.entries()) {
      const isLite = spec.$schema.includes("vega-lite");
      const fitted = isLite ? { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" } } : spec;
      const place = byId(`${figure.id}-${i}`);
      const result = await window.vegaEmbed(place, fitted, isLite ? options : { ...options, config: {} });
      const signal = chosen[figure.id];
      if (signal) await result.view.signal(figure.signal, signal.value).runAsync();
      views[figure.id].push(result.view);
      await new Promise((next) => setTimeout(next)); // let the page react
    }
  }

  for (const select of document.querySelectorAll("select[data-figure]")) {
    const figure = page.figures.find((each) => each.id === select.dataset.figure);
    select.addEventListener("change", () => {
      const value = figure.options[Number(select.value)][0];
      chosen[figure.id] = { value };
      for (const view of views[figure.id] || []) view.signal(figure.signal, value).runAsync();
      if (figure.id === "tradeoff") { diversity = value; showVariants(); showChoice(); }
    });
  }

  // ---------------------------------------------------------------- the choice of a policy
  let diversity = page.diversity;

  function best(allowed) {
    const base = page.variants.find((each) => each.is_base);
    const kept = page.variants.filter((each) => each.is_base || (each.may_be_picked && each.quality >= base.quality - allowed - 1e-12));
    const value = (each) => (each.diversities[diversity] === null ? -Infinity : each.diversities[diversity].mean);
    return kept.reduce((top, each) => (value(each) > value(top) ? each : top), base);
  }

  function showChoice() {
    const slider = byId("loss");
    if (!slider) return;
    const allowed = Number(slider.value), { unit, scale, quality } = page.choice;
    const loss = unit === "points" ? `${+allowed.toFixed(2)} points` : String(+(allowed * scale).toPrecision(3));
    byId("loss-value").textContent = loss;
    const base = page.variants.find((each) => each.is_base), picked = best(allowed * scale);
    const start = `For a loss of at most ${loss} of ${quality} against ${base.name}, take ${picked.name}: `;
    byId("choice").textContent = picked === base
      ? `${start}no other is more diverse within that loss.`
      : `${start}${page.titles[diversity]} ${picked.diversities[diversity].gain}, ${quality} ${picked.cost}.`;
    byId("variants").querySelectorAll("tbody tr").forEach((row, i) => row.classList.toggle("picked", page.variants[i] === picked));
  }

  function showVariants() {
    byId("diversity-name").textContent = page.titles[diversity];
    byId("about").textContent = page.about[diversity];
    byId("variants").querySelectorAll("tbody tr").forEach((row, i) => {
      row.lastElementChild.textContent = page.variants[i].diversities[diversity].text;
    });
  }

  if (byId("loss")) byId("loss").addEventListener("input", showChoice);

  // ---------------------------------------------------------------- completions: only visible rows exist
  async function unpack() {
    const binary = atob(byId("packed").textContent.trim()), bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function table(data) {
    const viewport = byId("viewport"), spacer = byId("spacer"), height = narrow ? 52 : 30;
    const search = byId("search"), selects = ["origin", "prompt", "correct"].map((key) => [key, byId(`by-${key}`)]);
    let found = [];
    for (const key of ["origin", "prompt"]) {
      data[`${key}s`].forEach((text, i) => byId(`by-${key}`).append(new Option(text.slice(0, 120), i)));
    }

    function filter() {
      const words = search.value.toLowerCase().trim();
      const wanted = selects.filter(([, select]) => select.value !== "")
        .map(([key, select]) => [key, select.value === "none" ? null : Number(select.value)]);
      found = [];
      for (let i = 0; i < data.text.length; i++) {
        if (wanted.every(([key, value]) => data[key][i] === value) && (!words || data.text[i].toLowerCase().includes(words))) found.push(i);
      }
      byId("found").textContent = `${found.length} of ${data.text.length}`;
      spacer.style.height = `${found.length * height}px`;
      viewport.scrollTop = 0;
      show();
    }

    function cell(row, name, text) {
      const span = document.createElement("span");
      span.className = name;
      span.textContent = text;
      row.append(span);
      return span;
    }

    function show() {
      const first = Math.max(0, Math.floor(viewport.scrollTop / height) - 5);
      const rows = found.slice(first, first + Math.ceil(viewport.clientHeight / height) + 10).map((i, at) => {
        const row = document.createElement("button");
        row.className = "row";
        row.style.top = `${(first + at) * height}px`;
        cell(row, "from", data.origins[data.origin[i]]);
        const judged = data.correct[i];
        cell(row, judged === null ? "" : judged ? "right" : "wrong", judged === null ? "–" : judged ? "✓ right" : "✗ wrong");
        cell(row, "reward", data.reward[i] === null ? "–" : data.reward[i].toFixed(2));
        cell(row, "text", data.text[i].slice(0, 400).replaceAll("\n", "↵") || "(empty)").dir = "auto";
        row.addEventListener("click", () => open(i));
        return row;
      });
      spacer.replaceChildren(...rows);
    }

    function open(i) {
      const whole = data.cut[i];
      const judged = data.correct[i] === null ? "not judged" : data.correct[i] ? "right" : "wrong";
      const cut = whole ? `, the first ${page.longest} of ${whole} characters` : "";
      byId("whole-origin").textContent = `${data.origins[data.origin[i]]} · ${judged} · reward ${data.reward[i] ?? "–"}${cut}`;
      byId("whole-prompt").textContent = data.prompts[data.prompt[i]];
      byId("whole-text").textContent = data.text[i] || "(empty)";
      byId("whole").showModal();
    }

    let waiting = 0;
    search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
    for (const [, select] of selects) select.addEventListener("change", filter);
    viewport.addEventListener("scroll", () => requestAnimationFrame(show));
    filter();
    document.documentElement.dataset.searchable = "yes";
  }

  async function start() {
    if (page.figures.length) await draw(page.figures[0]);
    showChoice();
    await new Promise((next) => setTimeout(next, 50)); // let the first picture appear
    if (byId("viewport")) table(await unpack());
    for (const figure of page.figures.slice(1)) await draw(figure);
    document.documentElement.dataset.drawn = "yes";
  }

  start();
})();
