// The leaderboard: whatever columns leaderboard.json has, sorted and filtered here.
(function leaderboard() {
  const { columns, rows, legend, costs } = data.table;
  const visible = new Set(columns.filter((column) => column.shown).map((column) => column.name));
  const state = { sort: null, up: false, words: "", only: {} };
  const VERDICTS = { better: ["good", "\u25b2 "], worse: ["bad", "\u25bc "], equivalent: ["none", "= "], undecided: ["none", "? "] };

  function shown(column, row) {
    const value = row[column.name];
    if (value === null || value === undefined) {
      return column.name === "accuracy_percent" && row.status !== "complete" ? el("span", { class: "chip none" }, row.status) : "\u2013";
    }
    if (column.kind === "text") {
      const verdict = VERDICTS[String(value).split(/[ ,:]/)[0]];
      return verdict ? el("span", { class: `chip ${verdict[0]}` }, verdict[1] + value) : String(value);
    }
    const one = (x) => minus(column.kind === "number" ? number(x) : (Math.round(10 * x) / 10 || 0).toFixed(1));
    const plus = (x) => (column.kind === "points" && x > 0 ? "+" : "") + one(x);
    let text = plus(value);
    if (column.spread && row[column.spread] !== null) text += ` \u00b1 ${one(row[column.spread])}`;
    if (column.ends && row[column.ends[0]] !== null) text += ` [${one(row[column.ends[0]])}, ${one(row[column.ends[1]])}]`;
    return text;
  }

  const compare = (column) => (a, b) => {
    const [x, y] = [a[column.name], b[column.name]];
    if (x === null || x === undefined || y === null || y === undefined) {  // what is missing stands last, whichever way it is sorted
      return (x === null || x === undefined ? 1 : 0) - (y === null || y === undefined ? 1 : 0);
    }
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en");
    return state.up ? order : -order;
  };

  const head = el("thead"), body = el("tbody");
  const count = el("span", { class: "quiet", role: "status" });

  function drawHead() {
    head.replaceChildren(el("tr", {}, columns.filter((column) => visible.has(column.name)).map((column) => {
      const button = el("button", { type: "button" }, column.label, column.unit ? el("span", { class: "unit" }, ` ${column.unit}`) : null);
      const sorted = state.sort === column.name;
      on(button, "click", () => {
        state.up = sorted ? !state.up : column.kind === "text";
        state.sort = column.name;
        draw();
        [...head.querySelectorAll("th")].find((th) => th.dataset.name === column.name).querySelector("button").focus();
      });
      return el("th", {
        scope: "col", "data-name": column.name, class: column.kind === "text" ? "text" : null,
        "aria-sort": sorted ? (state.up ? "ascending" : "descending") : null,
      }, button);
    })));
  }

  function drawBody() {
    let found = rows.filter((row) => Object.entries(state.only).every(([name, wanted]) => !wanted || String(row[name]) === wanted));
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    found = found.filter((row) => {
      const text = Object.values(row).filter((value) => typeof value === "string").join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const column = columns.find((each) => each.name === state.sort);
    if (column) found = [...found].sort(compare(column));
    body.replaceChildren(...found.map((row) => el("tr", { class: row.role }, columns.filter((each) => visible.has(each.name)).map((each, place) =>
      el(place ? "td" : "th", { scope: place ? null : "row", class: each.kind === "text" ? "text" : null }, shown(each, row))))));
    count.textContent = `${found.length} of ${rows.length} rows`;
  }

  const draw = () => { drawHead(); drawBody(); };
  const search = on(el("input", { type: "search", "aria-label": "Filter rows by words", placeholder: "words" }), "input", () => {
    state.words = search.value;
    drawBody();
  });
  const filters = ["pair", "task", "role"].map((name) => {
    const values = [...new Set(rows.map((row) => row[name]).filter((value) => value !== null && value !== undefined))].map(String);
    const all = [["", "all"], ...values.map((value) => [value, value])];
    return values.length > 1 ? select(name, `Only this ${name}`, all, (value) => { state.only[name] = value; drawBody(); }) : null;
  });
  const groups = [["results", "Results"], ["costs", "Costs"]].map(([group, title]) => {
    const mine = columns.filter((column) => column.group === group && !column.empty && column.name !== "strategy");
    const boxes = mine.map((column) => {
      const box = el("input", { type: "checkbox", checked: visible.has(column.name) });
      on(box, "change", () => { if (box.checked) visible.add(column.name); else visible.delete(column.name); draw(); });
      return el("label", {}, box, ` ${column.label}`, column.unit ? ` ${column.unit}` : null);
    });
    return mine.length ? el("fieldset", {}, el("legend", {}, title), boxes) : null;
  });
  draw();
  section(
    "leaderboard",
    el("div", { class: "tools" }, el("label", {}, "filter", search), filters, count),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Leaderboard" }, el("table", { class: "board" }, head, body)),
    el("details", { class: "columns" }, el("summary", {}, "Columns"), groups, el("p", { class: "legend" }, costs)),
    el("p", { class: "legend" }, legend),
  );
})();
