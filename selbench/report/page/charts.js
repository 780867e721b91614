// Charts as inline SVG. Colours are custom properties, so that dark, light and print need no redrawing.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function swatch(of) {
  const stroke = { stroke: colour(of.colour), "stroke-width": 2.5, "stroke-dasharray": DASHES[of.dash] || null };
  return svg("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" }, svg("path", { d: "M0 5H24", ...stroke }));
}

// series: {label, look, x, mean, low, high, marks}; levels: {label, value} across the whole width.
function plot({ series, levels = [], xlabel, ylabel, height = 330, hidden = new Set() }) {
  const W = 760, H = height, left = 52, right = 12, top = 12, bottom = 38;
  const seen = series.filter((line) => !hidden.has(line.label));
  const finite = (values) => values.filter((value) => value !== null);
  const xs = series.flatMap((line) => line.x);
  const ys = finite([...seen.flatMap((line) => [...line.low, ...line.high]), ...levels.map((level) => level.value)]);
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys, Infinity), Math.max(...ys, -Infinity)];
  if (!ys.length) [y0, y1] = [0, 1];
  if (y0 > 0 && y0 < 0.35 * y1) y0 = 0;
  const room = (y1 - y0 || Math.abs(y1) || 1) * 0.05;
  y1 += room;
  if (y0 !== 0) y0 -= room;
  const X = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (W - left - right);
  const Y = (y) => top + (1 - (y - y0) / (y1 - y0)) * (H - top - bottom);
  const f = (value) => value.toFixed(1);
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${ylabel} against ${xlabel}: ${series.map((line) => line.label).join(", ")}` });
  for (const y of ticks(y0, y1, 6)) {
    root.append(svg("path", { d: `M${left} ${f(Y(y))}H${W - right}`, stroke: colour("line"), "stroke-width": 0.7 }));
    root.append(svg("text", { x: left - 6, y: f(Y(y) + 4), "text-anchor": "end" }, number(y)));
  }
  for (const x of ticks(x0, x1, 8)) root.append(svg("text", { x: f(X(x)), y: H - bottom + 16, "text-anchor": "middle" }, number(x, 4)));
  root.append(svg("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, xlabel));
  root.append(svg("text", { x: -(top + (H - top - bottom) / 2), y: 11, "text-anchor": "middle", transform: "rotate(-90)" }, ylabel));
  for (const level of levels) {
    root.append(svg("path", { d: `M${left} ${f(Y(level.value))}H${W - right}`, stroke: colour("quiet"), "stroke-width": 1, "stroke-dasharray": "7 5" }));
    root.append(svg("text", { x: W - right, y: f(Y(level.value) - 4), "text-anchor": "end" }, level.label));
  }
  for (const line of seen) {
    const known = line.x.map((_, n) => n).filter((n) => line.mean[n] !== null);
    const path = (values, order = known) => order.map((n) => `${f(X(line.x[n]))} ${f(Y(values[n]))}`).join("L");
    const stroke = colour(line.look.colour);
    if (line.marks) {
      for (const n of known) root.append(
        svg("path", { d: `M${f(X(line.x[n]))} ${f(Y(line.low[n]))}V${f(Y(line.high[n]))}`, stroke, "stroke-width": 1 }),
        svg("circle", { cx: f(X(line.x[n])), cy: f(Y(line.mean[n])), r: 3.5, fill: stroke }, svg("title", {}, `${line.label}: ${number(line.mean[n])} at ${number(line.x[n])}`)),
      );
    } else root.append(svg("path", { d: `M${path(line.low)}L${path(line.high, [...known].reverse())}Z`, fill: stroke, opacity: 0.1 }));
    root.append(svg("path", { d: `M${path(line.mean)}`, fill: "none", stroke, "stroke-width": 1.8, "stroke-dasharray": DASHES[line.look.dash] || null, "stroke-linejoin": "round" }));
  }
  const guide = svg("path", { stroke: colour("ink"), "stroke-width": 0.8 });
  root.append(guide);
  const inverse = (event) => {
    const box = root.getBoundingClientRect();
    return x0 + ((((event.clientX - box.left) / box.width) * W - left) / (W - left - right)) * (x1 - x0);
  };
  return { root, inverse, guide: (x) => guide.setAttribute("d", `M${f(X(x))} ${top}V${H - bottom}`) };
}

function keys(series, redraw, hidden, columns) {
  const rows = series.map((line) => {
    const button = el("button", { type: "button", "aria-pressed": "true", "aria-label": `show ${line.label}` }, swatch(line.look), line.label);
    const cells = columns.map(() => el("td"));
    const row = el("tr", {}, el("td", { class: "text" }, button), cells);
    on(button, "click", () => {
      if (!hidden.delete(line.label)) hidden.add(line.label);
      row.className = hidden.has(line.label) ? "off" : "";
      button.setAttribute("aria-pressed", String(!hidden.has(line.label)));
      redraw();
    });
    button.style.background = "none";
    button.style.color = "inherit";
    return { row, cells };
  });
  const head = el("thead", {}, el("tr", {}, el("th", { class: "text", scope: "col" }, "strategy"), columns.map((word) => el("th", { scope: "col" }, word))));
  return { node: el("table", { class: "keys" }, head, el("tbody", {}, rows.map((each) => each.row))), cells: rows.map((each) => each.cells) };
}

(function learning() {
  if (!data.learning.length) section("learning", el("p", { class: "note" }, "No run has finished its training yet."));
  for (const { pair, metrics, lines, levels } of data.learning) {
    const hidden = new Set(), host = el("div"), steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
    const slider = el("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, "aria-label": "step whose numbers are shown" });
    const where = el("span", { class: "quiet" });
    let metric = metrics[0], drawn = null;
    const of = (line) => line.values[metric.name] || [[], [], []];
    const series = lines.map((line) => ({ label: line.label + (line.seeds < line.planned ? ` (${line.seeds} of ${line.planned} seeds)` : ""), look: line.look, line }));
    const table = keys(series, () => draw(), hidden, ["mean", "lowest", "highest"]);
    function point() {
      const step = steps[slider.value];
      slider.setAttribute("aria-valuetext", `step ${step}`);
      where.textContent = `step ${step}`;
      drawn.guide(step);
      lines.forEach((line, n) => {
        const at = line.steps.indexOf(step);
        table.cells[n].forEach((cell, side) => { cell.textContent = at < 0 ? "\u2013" : number(of(line)[side][at]); });
      });
    }
    function draw() {
      const filled = series.map((each) => {
        const [mean, low, high] = of(each.line);
        return { ...each, x: mean.length ? each.line.steps : [], mean, low, high };
      });
      const unit = metric.unit ? `, ${metric.unit}` : "";
      drawn = plot({ series: filled, levels: levels[metric.name], xlabel: "step", ylabel: metric.label + unit, hidden });
      on(drawn.root, "pointermove", (event) => {
        const x = drawn.inverse(event);
        slider.value = steps.reduce((best, step, n) => (Math.abs(step - x) < Math.abs(steps[best] - x) ? n : best), 0);
        point();
      });
      host.replaceChildren(drawn.root);
      point();
    }
    on(slider, "input", point);
    draw();
    section(
      "learning", heading(pair),
      el("div", { class: "tools" }, select("shown", "What is shown", metrics.map((each) => [each.name, each.label]), (name) => { metric = metrics.find((each) => each.name === name); draw(); })),
      el("div", { class: "split" }, el("figure", {}, host, slider, el("figcaption", {}, "Trailing mean over 5 steps, mean of the seeds; the band reaches from the lowest to the highest seed.")), el("div", {}, where, table.node)),
    );
  }
})();

(function budgets() {
  if (!data.budgets.length) section("budgets", el("p", { class: "note" }, "Every strategy ran at one budget, so there is no curve to draw. Budgets are given as NAME@SHARE, for example --strategies full,random@0.05,random@0.2,entropy@0.05,entropy@0.2."));
  for (const { pair, task, lines, whole } of data.budgets) {
    const charts = [["accuracy", "accuracy, %"], ["seconds", "seconds of the update"], ["tflop", "TFLOP of the update"]].map(([name, ylabel]) => {
      const series = lines.map(({ label, look: of, points }) => {
        const known = points.filter((point) => point[name] !== null && point[name] !== undefined);
        const off = (point, sign) => point[name] + sign * ((name === "accuracy" && point.spread) || 0);
        return { label, look: of, marks: true, x: known.map((p) => p.kept), mean: known.map((p) => p[name]), low: known.map((p) => off(p, -1)), high: known.map((p) => off(p, 1)) };
      }).filter((line) => line.x.length);
      const levels = whole && whole[name] !== null && whole[name] !== undefined ? [{ label: "all tokens", value: whole[name] }] : [];
      return series.length ? el("figure", {}, plot({ series, levels, xlabel: "kept tokens, %", ylabel, height: 300 }).root) : null;
    });
    section("budgets", el("h3", {}, `pair ${pair}, task ${task}`), el("div", { class: "pair2" }, charts),
      el("ul", { class: "swatches" }, lines.map((line) => el("li", {}, el("i", { css: { background: colour(line.look.colour) } }), line.label))),
      el("p", { class: "legend" }, "Bars at the points: standard deviation over seeds."));
  }
})();

(function atlas() {
  if (!data.atlas.length) section("atlas", el("p", { class: "note" }, "No finished run has stored its tokens."));
  for (const { pair, clouds, panels } of data.atlas) {
    const host = el("div", { class: "atlas" });
    const symlog = (value) => Math.sign(value) * (Math.abs(value) <= 0.1 ? Math.abs(value) * 10 : 1 + Math.log10(Math.abs(value) / 0.1));
    const range = (name) => [0, Math.max(...clouds.flatMap((cloud) => cloud[name].filter((value) => value !== null).map(symlog)), 1) * 1.04];
    const [xr, yr] = [range("x"), range("y")], W = 260, H = 190, L = 30, B = 26;
    const X = (v) => (L + ((symlog(v) - xr[0]) / (xr[1] - xr[0])) * (W - L - 6)).toFixed(1);
    const Y = (v) => (6 + (1 - (symlog(v) - yr[0]) / (yr[1] - yr[0])) * (H - B - 6)).toFixed(1);
    function panel(each) {
      const cloud = clouds[each.cloud], kept = new Set(each.kept);
      const dots = (wanted) => cloud.x.map((x, n) => (x !== null && cloud.y[n] !== null && wanted(n) ? `M${X(x)} ${Y(cloud.y[n])}h0` : "")).join("");
      const layer = (wanted, of) => svg("path", { d: dots(wanted), fill: "none", "stroke-linecap": "round", ...of });
      const stroke = colour(each.look.colour);
      const drawn = [0, 0.1, 1, 10];
      const places = [[W - 8, 16, "end"], [W - 8, H - B - 5, "end"], [L + 4, 16, "start"], [L + 4, H - B - 5, "start"]];
      return el("div", {}, el("h3", {}, `${each.label}, step ${each.step}`), svg(
        "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${each.label}, step ${each.step}: of the kept tokens ${each.shares.map((share, n) => `${number(share)} % in Q${n + 1}`).join(", ")}` },
        svg("rect", { x: L, y: 6, width: W - L - 6, height: H - B - 6, fill: "none", stroke: colour("line") }),
        drawn.filter((v) => symlog(v) <= xr[1]).map((v) => svg("text", { x: X(v), y: H - 13, "text-anchor": "middle" }, String(v))),
        drawn.filter((v) => symlog(v) <= yr[1]).map((v) => svg("text", { x: L - 4, y: Number(Y(v)) + 4, "text-anchor": "end" }, String(v))),
        layer((n) => !kept.has(n), { stroke: colour("faint"), "stroke-width": 2.6, opacity: 0.8 }),
        [1, 2].map((kind) => cloud.x.map((x, n) => (cloud.planted[n] === String(kind) ? [x, cloud.y[n]] : null)).filter(Boolean).map(([x, y]) => (kind === 1
          ? svg("circle", { cx: X(x), cy: Y(y), r: 3.4, fill: "none", stroke: colour("ink"), "stroke-width": 0.7 })
          : svg("rect", { x: X(x) - 3, y: Y(y) - 3, width: 6, height: 6, fill: "none", stroke: colour("ink"), "stroke-width": 0.7 })))),
        layer((n) => kept.has(n), { stroke, "stroke-width": 3.6, opacity: 0.85 }),
        svg("path", { d: `M${X(each.medians[0])} 6V${H - B}M${L} ${Y(each.medians[1])}H${W - 6}`, stroke: colour("quiet"), "stroke-width": 0.7 }),
        places.map(([x, y, anchor], n) => svg("text", { class: "strong", x, y, "text-anchor": anchor, "paint-order": "stroke", stroke: colour("paper"), "stroke-width": 3 }, `Q${n + 1} ${Math.round(each.shares[n])} %`)),
      ));
    }
    const whens = [...new Set(panels.map((each) => each.when))];
    const buttons = whens.map((when) => el("button", { type: "button" }, `${when} step`));
    const draw = (chosen) => {
      buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(whens[n] === chosen)));
      host.replaceChildren(...panels.filter((each) => each.when === chosen).map(panel));
    };
    buttons.forEach((button, n) => on(button, "click", () => draw(whens[n])));
    draw(whens[0]);
    const planted = clouds.some((cloud) => /[12]/.test(cloud.planted));
    section("atlas", heading(pair), el("div", { class: "tools" }, buttons), host, el("p", { class: "legend" },
      "Across: student entropy, nats; up: reverse KL to the teacher, nats; linear below 0.1, logarithmic above. Colour: kept tokens, and the share of them by quadrant (Q1 uncertain and far from the teacher, Q2 uncertain, Q3 sure and far, Q4 neither); lines: medians of the batch. First finished seed of each strategy." + (planted ? " Outlined: planted errors, overconfident (circles) and uncertain (squares)." : "")));
  }
})();

(function overlap() {
  if (!data.overlap.length) section("overlap", el("p", { class: "note" }, "No finished run has stored its tokens."));
  for (const { pair, labels, jaccard, chance, tokens, seeds, apart } of data.overlap) {
    const head = el("thead", {}, el("tr", {}, el("td"), labels.map((label) => el("th", { scope: "col" }, label))));
    const body = labels.map((label, i) => el("tr", {}, el("th", { scope: "row", class: "text" }, label), labels.map((other, j) => {
      const value = jaccard[i][j];
      if (value === null) return el("td", { title: "no seed in common" }, "\u2013");
      const share = Math.round(100 * value);
      return el("td", { css: { background: `color-mix(in srgb, var(--s1) ${Math.round(75 * value)}%, var(--paper))` }, title: `${label} and ${other}: ${number(value)}, by chance ${number(chance[i][j])}` }, `${share}`, el("span", { class: "quiet" }, i === j ? "" : ` /${Math.round(100 * chance[i][j])}`));
    })));
    section("overlap", heading(pair), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Overlap matrix" }, el("table", { class: "matrix" }, head, el("tbody", {}, body))),
      el("p", { class: "legend" }, `Jaccard index of the tokens that two strategies kept at the first step, in %, and after the stroke what two independent draws of the same sizes would share. Read from the records: at the same seed all strategies met the same rollouts there (${tokens} tokens, ${seeds} seed${seeds === 1 ? "" : "s"}, mean over seeds). Later steps differ between strategies and are not compared.`),
      apart.length ? el("p", { class: "note" }, `Left out, because these runs met other rollouts at the first step: ${apart.join("; ")}.`) : null);
  }
})();

(function costs() {
  if (!data.costs.length) section("costs", el("p", { class: "note" }, "No finished run has recorded its costs."));
  for (const { pair, views } of data.costs) for (const { name, unit, title, bars, lines } of views) {
    const total = (bar) => bar.parts.reduce((sum, part) => sum + part[1], 0);
    const most = Math.max(...bars.map((bar) => Math.max(total(bar), bar.tick || 0)), ...lines.map((line) => line.value)) || 1;
    const W = 900, L = 190, R = 120, row = 24, H = 20 + row * bars.length + 34;
    const X = (value) => L + (value / (most * 1.03)) * (W - L - R);
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${bars.map((bar) => `${bar.label} ${number(total(bar))} ${unit}`).join(", ")}` });
    const totals = [];
    bars.forEach((bar, n) => {
      const y = 20 + n * row;
      let x = 0;
      root.append(svg("text", { class: "strong", x: L - 8, y: y + 15, "text-anchor": "end" }, bar.label + (bar.seeds < bar.planned ? ` (${bar.seeds}/${bar.planned})` : "")));
      for (const [phase, value] of bar.parts) {
        root.append(svg("rect", { x: X(x).toFixed(1), y: y + 3, width: Math.max(0, X(x + value) - X(x)).toFixed(1), height: row - 7, fill: colour(phase), stroke: colour("paper"), "stroke-width": 0.5 }, svg("title", {}, `${bar.label}, ${phase}: ${number(value)} ${unit}`)));
        x += value;
      }
      if (bar.tick) root.append(svg("path", { d: `M${X(bar.tick).toFixed(1)} ${y}v${row - 1}`, stroke: colour("ink"), "stroke-width": 2.4 }, svg("title", {}, `baseline ${number(bar.tick)} ${unit}`)));
      const sign = (share) => (share > 0 ? "+" : "") + minus(String(share || 0));
      const against = lines.map((line) => (line.label === bar.label || !line.value ? "\u2013" : `${sign(Math.round(100 * (x / line.value - 1)))} %`));
      totals.push(svg("text", { class: "halo", x: Math.max(X(x), bar.tick ? X(bar.tick) : 0) + 6, y: y + 15 }, `${number(x)} ${unit}`, against.length ? ` (${against.join(", ")})` : ""));
    });
    lines.forEach((line, n) => {
      const x = X(line.value).toFixed(1);
      root.append(svg("path", { d: `M${x} 14V${20 + row * bars.length}`, stroke: colour(look(line.label).colour), "stroke-dasharray": n ? "2 3" : "6 3" }));
      root.append(svg("text", { x, y: n ? H - 18 : 10, "text-anchor": "middle" }, line.label));
    });
    root.append(...totals);
    const phases = [...new Set(bars.flatMap((bar) => bar.parts.map((part) => part[0])))];
    section("costs", heading(pair), el("h3", {}, name), el("figure", {}, root,
      el("ul", { class: "swatches" }, phases.map((phase) => el("li", {}, el("i", { css: { background: colour(phase) } }), phase))),
      el("figcaption", {}, `${title[0].toUpperCase()}${title.slice(1)}. In brackets: measured against ${lines.map((line) => line.label).join(" and ") || "nothing"}, in this order.`)));
  }
})();
