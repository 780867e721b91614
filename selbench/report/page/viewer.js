// Rollouts token by token. One rollout is in the page at a time; of the list, what can be seen.
(function viewer() {
  if (!data.viewer.length) section("tokens", el("p", { class: "note" }, "No finished run has stored its tokens."));
  for (const view of data.viewer) section("tokens", heading(view.pair), oneViewer(view));

  function oneViewer({ labels, batches, rollouts, texts, signals, scored, gap }) {
    const ROW = 50, PLANTED = ["clean", "overconfident", "uncertain"];
    const sets = rollouts.map((rollout) => labels.map((_, n) => new Set(rollout.kept[n] || [])));
    const word = (text) => text.replace(/ /g, "\u2423").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5") || "\u2205";
    const prose = (rollout) => rollout.text.map((n) => texts[n]).join("");
    const state = { strategy: 0, shade: "kept", found: rollouts.map((_, n) => n), at: 0, token: 0 };
    const uid = `v${document.querySelectorAll(".viewer").length}`;

    const spacer = el("ul", { role: "presentation" });
    const list = el("div", { class: "rollouts", role: "listbox", tabindex: 0, "aria-label": "Rollouts" }, spacer);
    const facts = el("div"), line = el("div", { class: "line mono" });
    const text = el("div", { class: "reading", role: "listbox", tabindex: 0, "aria-label": "Tokens of the rollout", "aria-orientation": "horizontal" }, facts, line);
    const details = el("div", { class: "details", tabindex: 0, role: "region", "aria-label": "The token" });
    const count = el("span", { class: "quiet", role: "status" });
    let spans = [];

    function drawList() {
      const top = list.scrollTop, high = list.clientHeight || 620;
      spacer.style.height = `${ROW * state.found.length}px`;
      const first = Math.max(0, Math.floor(top / ROW) - 3), last = Math.min(state.found.length, Math.ceil((top + high) / ROW) + 3);
      spacer.replaceChildren(...state.found.slice(first, last).map((number_, n) => {
        const rollout = rollouts[number_], place = first + n;
        const item = el("li", {
          id: `${uid}-r${place}`, role: "option", "aria-selected": String(place === state.at), "aria-posinset": place + 1, "aria-setsize": state.found.length,
          css: { top: `${ROW * place}px` },
        }, verdict(rollout), ` ${rollout.problem || prose(rollout).slice(0, 60)}`, el("br"), el("span", { class: "quiet" }, batches[rollout.batch]));
        return on(item, "click", () => { go(place); });
      }));
      list.setAttribute("aria-activedescendant", `${uid}-r${state.at}`);
    }

    function verdict(rollout) {
      if (!rollout.verdict) return null;
      const [kind, sign] = { correct: ["good", "\u2713"], incorrect: ["bad", "\u2717"] }[rollout.verdict] || ["none", "?"];
      return el("span", { class: `chip ${kind}` }, `${sign} ${rollout.verdict}`);
    }

    function lanes(rollout, mine, n) {  // a thin stripe below the token for every strategy that keeps it
      const stops = labels.map((label, s) => {
        const of = mine[s].has(n) && rollout.kept[s] ? colour(look(label).colour) : "transparent";
        return `${of} ${4 * s}px ${4 * s + 3}px, transparent ${4 * s + 3}px ${4 * s + 4}px`;
      });
      return `linear-gradient(to bottom, ${stops.join(", ")})`;
    }

    function drawText() {
      const rollout = rollouts[state.found[state.at]];
      if (!rollout) { facts.replaceChildren("No rollout fits the filter."); line.replaceChildren(); details.replaceChildren(); return; }
      const mine = sets[state.found[state.at]];
      facts.replaceChildren(...[
        el("h3", {}, `${batches[rollout.batch]}, rollout ${rollout.sample}`),
        el("p", {}, verdict(rollout), rollout.problem ? [" ", el("span", { class: "mono" }, rollout.problem)] : null),
        rollout.gold === undefined ? null : el("p", { class: "quiet" }, `answer ${rollout.gold ?? "unknown"}; extracted ${rollout.extracted ?? "none"}; ended by ${rollout.finish}`),
      ].filter(Boolean));
      const high = 4 * labels.length, signal = rollout.signals[state.shade], most = signal ? Math.max(...signal.filter((v) => v !== null), 1e-9) : 1;
      line.className = `line mono${signal ? " shade" : ""}`;
      line.style.setProperty("--now", signal ? "var(--accent)" : colour(look(labels[state.strategy]).colour));
      let before = -1;
      spans = [];
      line.replaceChildren(...rollout.text.flatMap((t, n) => {
        const kept = mine[state.strategy].has(n), planted = rollout.planted ? Number(rollout.planted[n]) : 0, raw = texts[t];
        const css = { "padding-bottom": `${high + 2}px`, "background-image": lanes(rollout, mine, n), "background-size": `100% ${high}px` };
        if (signal) css["--amount"] = `${Math.round(70 * Math.max(0, signal[n] || 0) / most)}%`;
        const span = el("span", { id: `${uid}-t${n}`, role: "option", "data-n": n, class: `tok${kept && !signal ? " kept" : ""}${planted ? ` p${planted}` : ""}`, css }, raw.replace(/\n/g, "\u21b5") || "\u2205");
        spans.push(span);
        const skipped = rollout.position[n] - before - 1;
        before = rollout.position[n];
        return [skipped ? el("span", { class: "quiet" }, `[${skipped} masked]`) : null, span, raw.includes("\n") ? el("br") : null].filter(Boolean);
      }));
      point(Math.min(state.token, spans.length - 1));
    }

    function bars(pairs, token) {
      const rows = [];
      for (let n = 0; n < pairs.length; n += 2) rows.push([texts[pairs[n]], pairs[n + 1] / 1000]);
      return el("div", { class: "bars" }, rows.flatMap(([raw, p]) => [
        el("span", { class: `mono${raw === token ? " same" : ""}` }, word(raw)),
        el("i", { css: { width: `${Math.max(1, 100 * p)}%` } }), el("span", {}, p < 0.001 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`)]));
    }

    function point(n) {
      const rollout = rollouts[state.found[state.at]], mine = sets[state.found[state.at]];
      if (!rollout || !spans.length) return;
      if (spans[state.token]) spans[state.token].classList.remove("here");
      state.token = n;
      const span = spans[n], raw = texts[rollout.text[n]];
      span.classList.add("here");
      const keepers = labels.filter((_, s) => mine[s].has(n)), planted = rollout.planted ? PLANTED[Number(rollout.planted[n])] : null;
      const values = signals.filter(({ name }) => rollout.signals[name] && rollout.signals[name][n] !== null);
      span.setAttribute("aria-label", `${word(raw)}, ${mine[state.strategy].has(n) ? "kept" : "not kept"} by ${labels[state.strategy]}${planted && planted !== "clean" ? `, planted ${planted}` : ""}`);
      span.setAttribute("aria-selected", String(mine[state.strategy].has(n)));
      text.setAttribute("aria-activedescendant", span.id);
      const known = labels.filter((_, s) => rollout.kept[s]);
      details.replaceChildren(
        el("h3", {}, el("span", { class: "mono" }, `\u201c${word(raw)}\u201d`), ` position ${rollout.position[n]}, id ${rollout.token[n]}`),
        el("dl", {}, values.flatMap(({ name, label, unit }) => [el("dt", {}, label), el("dd", {}, `${number(rollout.signals[name][n])}${unit ? ` ${unit}` : ""}`)]),
          planted ? [el("dt", {}, "planted truth"), el("dd", {}, planted)] : null),
        el("h3", {}, `kept by ${keepers.length} of ${known.length}`),
        el("div", { class: "keepers" }, keepers.map((label) => el("span", { css: { "--now": colour(look(label).colour) } }, label))),
        ...["student", "teacher"].flatMap((side) => (rollout[side] ? [el("h3", {}, `${side}'s candidates`), bars(rollout[side][n], raw)] : [])),
      );
    }

    function go(place) {
      state.at = Math.max(0, Math.min(state.found.length - 1, place));
      state.token = 0;
      const y = ROW * state.at;
      if (y < list.scrollTop) list.scrollTop = y;
      else if (y + ROW > list.scrollTop + list.clientHeight) list.scrollTop = y + ROW - list.clientHeight;
      drawList();
      drawText();
      text.scrollTop = 0;
    }

    function move(n) {
      point(Math.max(0, Math.min(spans.length - 1, n)));
      spans[state.token].scrollIntoView({ block: "nearest" });
    }

    function nextKept(step) {
      const mine = sets[state.found[state.at]][state.strategy];
      for (let n = state.token + step; n >= 0 && n < spans.length; n += step) if (mine.has(n)) { move(n); return; }
    }

    on(list, "scroll", drawList);
    on(list, "keydown", (event) => {
      const to = { ArrowDown: state.at + 1, ArrowUp: state.at - 1, PageDown: state.at + 10, PageUp: state.at - 10, Home: 0, End: state.found.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
    on(text, "keydown", (event) => {
      const act = {
        ArrowRight: () => move(state.token + 1), ArrowLeft: () => move(state.token - 1), Home: () => move(0), End: () => move(spans.length - 1),
        n: () => nextKept(1), p: () => nextKept(-1), ArrowDown: () => go(state.at + 1), ArrowUp: () => go(state.at - 1),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey || !spans.length) return;
      event.preventDefault();
      act();
    });
    on(line, "pointerover click", (event) => {
      const span = event.target.closest(".tok");
      if (span) point(Number(span.dataset.n));
    });

    const only = { batch: "", verdict: "", words: "" };
    function filter() {
      state.found = rollouts.map((_, n) => n).filter((n) => {
        const rollout = rollouts[n];
        return (only.batch === "" || rollout.batch === Number(only.batch)) && (only.verdict === "" || rollout.verdict === only.verdict)
          && (only.words === "" || `${rollout.problem || ""} ${prose(rollout)}`.includes(only.words));
      });
      count.textContent = `${state.found.length} of ${rollouts.length} rollouts`;
      list.scrollTop = 0;
      go(0);
    }
    const verdicts = [...new Set(rollouts.map((rollout) => rollout.verdict).filter(Boolean))];
    const shades = [["kept", "kept tokens"], ...signals.filter(({ name }) => rollouts.some((r) => r.signals[name]) && !name.endsWith("logprob")).map(({ name, label }) => [name, label])];
    const search = on(el("input", { type: "search", "aria-label": "Filter rollouts by text", placeholder: "text" }), "input", () => { only.words = search.value; filter(); });
    const about = scored
      ? `Texts, candidates and verdicts are those of ${scored} of ${rollouts.length} rollouts, read again by the models; entropy and divergence then agree with the run's own to ${number(gap, 2)} nats. The student of a last step is not kept, so there the teacher speaks alone.`
      : "No model was at hand: tokens are shown by their ids, with what the run itself stored.";
    const tools = el("div", { class: "tools" },
      select("highlight", "Strategy whose tokens are highlighted", labels.map((label, n) => [n, label]), (value) => { state.strategy = Number(value); drawText(); }),
      select("shade by", "What the shading shows", shades, (value) => { state.shade = value; drawText(); }),
      select("rollouts of", "Only rollouts of", [["", "all"], ...batches.map((name, n) => [n, name])], (value) => { only.batch = value; filter(); }),
      verdicts.length ? select("verdict", "Only this verdict", [["", "all"], ...verdicts.map((name) => [name, name])], (value) => { only.verdict = value; filter(); }) : null,
      el("label", {}, "with", search), count);
    const key = el("ul", { class: "swatches" }, labels.map((label) => el("li", {}, el("i", { css: { background: colour(look(label).colour) } }), label)));
    const planted = rollouts.some((rollout) => /[12]/.test(rollout.planted || ""));
    const legend = el("p", { class: "legend" }, "Highlighted: kept by the chosen strategy. Stripes below a token, in the order of this key: kept by that strategy.",
      planted ? " Wavy underline: planted overconfident error; dotted: planted uncertain one." : "", ` ${about} In the text: `, el("kbd", {}, "\u2190"), " ", el("kbd", {}, "\u2192"), " token, ",
      el("kbd", {}, "n"), " ", el("kbd", {}, "p"), " next and previous kept token, ", el("kbd", {}, "\u2191"), " ", el("kbd", {}, "\u2193"), " rollout.");
    const box = el("div", {}, tools, el("div", { class: "viewer" }, list, text, details), key, legend);
    const start = labels.findIndex((label) => !["ink", "grey"].includes(look(label).colour));
    state.strategy = Math.max(0, start);
    tools.querySelector("select").value = String(state.strategy);
    filter();
    return box;
  }
})();
document.documentElement.dataset.ready = "yes";
