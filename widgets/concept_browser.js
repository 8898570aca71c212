const ROW = 46; // pixels, as in the style
const PAGE = 60; // rows that are fetched at a time
const MARKS = { ablate: "⊘", leave: "○", unsure: "?" };
const SAID = { ablate: "to be ablated", leave: "left in the model", unsure: "unsure" };

// The list: only the rows in sight are in the document; they are fetched a page at a time as one scrolls.
class List {
  constructor(ui) {
    this.ui = ui;
    this.pages = new Map();
    this.prefix = `cb${Math.random().toString(36).slice(2)}`;
    this.sheet = node("div", { class: "cb-sheet", role: "presentation" });
    this.box = node(
      "div",
      {
        class: "cb-list", role: "listbox", tabindex: "0",
        "aria-label": ui.get("about").reader ? "concepts, in an order of your own" : "concepts, ranked",
        onscroll: () => this.draw(),
      },
      this.sheet,
    );
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.box);
    ui.on(["version"], () => this.renew());
    ui.on(["place"], () => this.follow());
    this.renew();
    this.follow();
  }

  renew() {
    this.old = this.pages;
    this.pages = new Map();
    this.draw();
  }

  async fetch(page) {
    const version = this.ui.get("version");
    this.pages.set(page, null);
    const start = page * PAGE;
    const found = await this.ui.call("rows", { start, stop: start + PAGE });
    if (found && found.version === version && version === this.ui.get("version")) {
      this.pages.set(page, found.rows);
      this.old = null;
    } else if (version === this.ui.get("version")) this.pages.delete(page);
    this.draw();
  }

  // A row; of a page that is being fetched anew, as it was before.
  row(at) {
    const page = Math.floor(at / PAGE);
    if (!this.pages.has(page)) this.fetch(page);
    return (this.pages.get(page) ?? this.old?.get(page))?.[at % PAGE];
  }

  draw() {
    const total = this.ui.get("total");
    const selected = this.ui.get("concept");
    this.sheet.style.height = `${total * ROW}px`;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 3);
    const last = Math.min(total, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 3);
    const rows = [];
    for (let at = first; at < last; at += 1) rows.push(this.option(at, total, this.row(at), selected));
    this.sheet.replaceChildren(...rows);
    const place = this.ui.get("place");
    if (place >= first && place < last) this.box.setAttribute("aria-activedescendant", `${this.prefix}-${place}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  option(at, total, row, selected) {
    const place = { id: `${this.prefix}-${at}`, class: "cb-row", role: "option", style: `top:${at * ROW}px`,
      "aria-setsize": total, "aria-posinset": at + 1, "aria-selected": String(row?.name === selected) };
    if (!row) return node("div", place, node("span", { class: "soft" }, "…"));
    const several = this.ui.get("about").routes.length > 1;
    return node(
      "div",
      { ...place, onclick: () => this.ui.set({ concept: row.name }) },
      node("span", {
        class: `cb-mark ${row.decision}`,
        title: SAID[row.decision] ?? "not decided",
        "aria-label": SAID[row.decision] ?? "",
      }, MARKS[row.decision] ?? ""),
      node("span", { class: "cb-name" }, row.name),
      node(
        "span",
        { class: "cb-routes" },
        several ? row.found.map(([route, rank]) => node("i", {}, `${route} ${rank}`)) : [],
      ),
      node("span", { class: "cb-score number", title: row.measure }, row.score),
      node("span", { class: "cb-words said" }, row.words),
    );
  }

  follow() {
    const place = this.ui.get("place");
    if (place < 0) return this.draw();
    const top = place * ROW;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = top + ROW - this.box.clientHeight;
    }
    this.draw();
  }
}

// Ablate, leave or unsure, and why.
class Choice {
  constructor(ui, list) {
    this.ui = ui;
    this.list = list;
    this.pending = null;
    this.reason = node("input", {
      type: "text", "aria-label": "reason", maxlength: 500,
      onkeydown: (event) => this.typed(event),
    });
    const button = (decision, words, title) =>
      node(
        "button",
        { type: "button", title, "data-decision": decision, onclick: () => this.press(decision) },
        `${MARKS[decision]} ${words} `,
        node("kbd", {}, words[0]),
      );
    this.buttons = [
      button("ablate", "Ablate", "take this direction out of the model"),
      button("leave", "Leave", "leave this direction in the model"),
      button("unsure", "Unsure", "come back to it"),
    ];
    this.back = node(
      "button",
      { type: "button", title: "take the decision back", onclick: () => this.say(null) },
      "Take back ",
      node("kbd", {}, "X"),
    );
    this.bar = node(
      "div",
      { class: "cb-choice", role: "group", "aria-label": "decision" },
      this.buttons,
      this.reason,
      this.back,
    );
    ui.on(["concept"], () => this.turn());
    ui.on(["choice"], () => this.show());
    this.turn();
  }

  said() {
    return this.ui.get("choice")[this.ui.get("concept")];
  }

  // Another concept is selected. One may have gone on to it and asked for a decision before it was here.
  turn() {
    if (this.pending && this.ahead) {
      this.ahead = false;
      return this.show();
    }
    this.pending = null;
    this.reason.value = this.said()?.reason ?? "";
    this.show();
  }

  show() {
    const said = this.said();
    for (const one of this.buttons) {
      const decision = one.dataset.decision;
      one.setAttribute("aria-pressed", String((this.pending ?? said?.decision) === decision));
    }
    this.back.hidden = !said;
    this.bar.classList.toggle("asked", this.pending !== null);
    this.reason.placeholder = this.pending ? `Why ${this.pending} it? Enter saves` : "Reason, from what you read below";
    if (!this.pending && document.activeElement !== this.reason) this.reason.value = said?.reason ?? "";
  }

  // A decision: at once where there is a reason, or none is needed; otherwise the reason is asked for.
  press(decision) {
    const moving = this.ui.calls.size > 0;
    const reason = this.reason.value.trim();
    const fresh = !moving && reason && reason !== (this.said()?.reason ?? "");
    if (fresh || decision === "unsure") return this.say(decision, fresh ? reason : "");
    this.pending = decision;
    this.ahead = moving;
    this.reason.value = "";
    this.show();
    this.reason.focus();
  }

  typed(event) {
    if (event.key === "Escape") {
      this.turn();
      this.list.box.focus();
    } else if (event.key === "Enter") {
      const decision = this.pending ?? this.said()?.decision;
      const reason = this.reason.value.trim();
      if (decision && reason) this.say(decision, reason);
      else this.ui.say(decision ? "Write a reason first." : "Choose ablate, leave or unsure first.");
    }
  }

  async say(decision, reason = "") {
    this.pending = null;
    this.list.box.focus();
    await this.ui.settled();
    const name = this.ui.get("concept");
    await this.ui.call("decide", { action: decision, reason, name });
    this.ui.say(decision ? `${name} ${SAID[decision]}` : `${name}: taken back`);
  }
}

function histogram(density) {
  if (!density) return null;
  const [width, height] = [280, 90];
  const { counts, edges } = density;
  const log = density.by === "latent";
  const facts = log
    ? `Active at ${Number((100 * density.density).toPrecision(2))} % of ${number(density.tokens)} tokens, in ${
      number(density.texts)
    } texts` + (density.maximum ? `; largest ${short(density.maximum)}.` : ".")
    : `Mean ${short(density.mean)}, standard deviation ${short(density.std)}, smallest ${
      short(density.minimum)
    }, largest ${short(density.maximum)}.`;
  const title = node("h5", {}, log ? "Activation where active" : "Projection over all tokens");
  if (!counts.length) return node("div", {}, title, node("p", { class: "soft" }, facts));
  const tallest = Math.max(...counts);
  const step = width / counts.length;
  const scale = log ? Math.log : (value) => value;
  const at = (value) => (width * (scale(value) - scale(edges[0]))) / (scale(edges.at(-1)) - scale(edges[0]));
  const bars = counts.map((count, place) =>
    svg("rect", {
      x: place * step,
      width: Math.max(0.5, step - 0.4),
      y: height * (1 - count / tallest),
      height: (height * count) / tallest,
    }, svg("title", {}, `${short(edges[place])} to ${short(edges[place + 1])}: ${number(count)} tokens`))
  );
  const mean = density.mean === null
    ? null
    : svg("line", { x1: at(density.mean), x2: at(density.mean), y1: 0, y2: height });
  const ends = [[0, edges[0], "start"], [width, edges.at(-1), "end"]].map(([x, value, anchor]) =>
    svg("text", { x, y: height + 13, "text-anchor": anchor }, short(value))
  );
  return node(
    "div",
    {},
    title,
    svg(
      "svg",
      { class: "cb-bars", viewBox: `0 -2 ${width} ${height + 18}`, role: "img", "aria-label": `histogram: ${facts}` },
      bars,
      mean,
      ends,
    ),
    node("p", { class: "soft" }, facts, log ? " Log scale." : "", " Dashed: mean."),
  );
}

function neighbours(found, ui) {
  if (!found.length) return null;
  const rows = found.map(([name, cosine, label]) =>
    node(
      "li",
      {},
      node("button", { type: "button", onclick: () => ui.set({ concept: name }) }, name),
      " ",
      node("span", { class: "number" }, signed(cosine)),
      label ? ` ${label}` : "",
    )
  );
  return node(
    "div",
    {},
    node("h5", { title: "cosine of the directions" }, "Neighbours, by cosine"),
    node("ul", { class: "cb-neighbours" }, rows),
  );
}

function details(ui) {
  const detail = ui.get("detail");
  if (!detail.name) return [];
  const measured = detail.found.map(([route, rank, score, name]) =>
    `${route} rank ${rank}${score === null ? "" : ` · ${name} ${short(score)}`}`
  );
  const reading = ui.get("busy") && !detail.contexts;
  return [
    detail.hook ? node("p", { class: "soft" }, [detail.hook, ...measured].join(" · ")) : [],
    detail.explanations.map(([end, words, score]) =>
      node(
        "p",
        { class: "cb-explained said" },
        node("b", {}, end ? `Explained, ${end} end: ` : "Explained: "),
        words,
        score
          ? node(
            "span",
            { class: "soft", title: "detection accuracy on windows that it has not seen" },
            ` (score ${score})`,
          )
          : null,
      )
    ),
    contexts(detail.contexts) ??
      node(
        "p",
        { class: "soft" },
        reading ? "The texts are being read…" : "No contexts: give texts= or contexts= when making the panel.",
      ),
    node(
      "div",
      { class: "cb-more" },
      histogram(detail.density),
      raised(detail.tokens),
      neighbours(detail.neighbours, ui),
    ),
  ];
}

export default panel(
  "Concepts",
  "Read both ends of a direction, then say what to ablate and what to leave in the model.",
  (ui) => {
    const about = ui.get("about");
    const list = new List(ui);
    const choice = new Choice(ui, list);

    const search = node("input", {
      type: "search",
      placeholder: about.reader ? "Search contexts" : "Search contexts, explanations, names",
      "aria-label": "search",
      value: ui.get("query"),
      oninput: later(120, () => ui.set({ query: search.value })),
    });
    const short_hook = (hook) =>
      hook.replace("blocks.", "layer ").replace(".hook_resid_post", "").replace(".hook_", " ").replace(
        ".attn",
        " attn",
      );
    const filters = () => [
      about.routes.length > 1 &&
      chooser("route", [["", "all routes"], ...about.routes.map((one) => [one, one])], ui.get("route"), (route) =>
        ui.set({ route })),
      about.hooks.length > 1 &&
      chooser(
        "layer",
        [["", "all layers"], ...about.hooks.map((one) => [one, short_hook(one)])],
        ui.get("hook"),
        (hook) => ui.set({ hook }),
      ),
      chooser(
        "decisions",
        [["all", "any decision"], ["undecided", "undecided"], ["ablate", "to ablate"], ["leave", "to leave"], [
          "unsure",
          "unsure",
        ]],
        ui.get("showing"),
        (showing) => ui.set({ showing }),
      ),
      chooser(
        "order",
        [
          ["best", ui.get("query") ? "by match" : about.reader ? "your order" : "by rank"],
          ...(about.reader ? [] : [["score", "by score"], ["name", "by name"]]),
          ...(ui.get("about").densities ? [["density", "by density"]] : []),
          ["decision", "by decision"],
        ],
        ui.get("sort"),
        (sort) => ui.set({ sort }),
      ),
      node("button", {
        type: "button",
        title: "turn the order round",
        "aria-label": "turn the order round",
        "aria-pressed": String(ui.get("descending")),
        onclick: () => ui.set({ descending: !ui.get("descending") }),
      }, ui.get("descending") ? "↑" : "↓"),
    ];
    const narrowing = node("div", { class: "cb-filters" });
    const count = node("div", { class: "cb-count soft" });
    // As a decision does, a step back waits until all calls are answered, so that what is pressed in a row is done in
    // that row.
    const step = (name) => async () => {
      await ui.settled();
      ui.call(name);
    };
    const undo = node("button", { type: "button", onclick: step("undo") }, "Undo ", node("kbd", {}, "Z"));
    const redo = node("button", { type: "button", onclick: step("redo") }, "Redo ", node("kbd", {}, "Y"));
    ui.tools.append(undo, redo);

    const name = node("h4");
    const body = node("div", {
      class: "cb-body",
      tabindex: "0",
      "data-scrolls": true,
      role: "region",
      "aria-label": "what is known of the concept",
    });
    const sum = node("footer", { class: "cb-sum soft" });
    if (about.reader) {
      ui.main.append(node("p", { class: "cb-blind" }, node("b", {}, `Read blind by ${about.reader}. `),
        "The order is yours alone. Ranks, scores, routes, explanations and what others decided are not here. How long ",
        "a concept was in view is noted with each decision."));
    }
    ui.main.append(
      node("div", { class: "cb-bar" }, search, narrowing),
      node(
        "div",
        { class: "cb-both" },
        node("div", { class: "cb-left" }, count, list.box),
        node("div", { class: "cb-right" }, name, choice.bar, body),
      ),
      sum,
    );

    const showFilters = () => narrowing.replaceChildren(...filters().filter(Boolean));
    const showCount = () => {
      const [total, size] = [ui.get("total"), ui.get("about").size];
      count.textContent = `${total === size ? number(size) : `${number(total)} of ${number(size)}`} concepts${
        ui.get("note") ? `. ${ui.get("note")}` : ""
      }`;
    };
    const showChoice = () => {
      const said = Object.values(ui.get("choice"));
      const of = (decision) => said.filter((one) => one.decision === decision).length;
      undo.disabled = !ui.get("can_undo");
      redo.disabled = !ui.get("can_redo");
      const saved = ui.get("saved");
      sum.textContent = `${of("ablate")} to ablate, ${of("leave")} to leave, ${of("unsure")} unsure. ` +
        (of("ablate") ? "In the next cell, .selection holds what is to be ablated. " : "") +
        (saved ? (said.length ? `Saved to ${saved}.` : `Will be saved to ${saved}.`) : "Not saved to a file.");
    };
    const showDetail = () => {
      name.textContent = ui.get("concept");
      const detail = ui.get("detail");
      if (detail.name !== ui.get("concept")) return;
      if (detail.label) name.append(" ", node("em", {}, detail.label));
      body.replaceChildren(...details(ui).flat());
      body.scrollTop = 0;
    };
    ui.on(["concept", "detail"], showDetail);
    ui.on(["busy"], () => ui.get("busy") || showDetail());
    ui.on(["total", "note", "about"], showCount);
    ui.on(["choice", "can_undo", "can_redo", "saved"], showChoice);
    ui.on(["route", "hook", "showing", "sort", "descending", "query", "about"], showFilters);
    ui.on(["query"], () => {
      if (document.activeElement !== search) search.value = ui.get("query");
    });
    const go = (to) => () => ui.call("go", { to });
    ui.shortcuts([
      [["ArrowDown", "j"], "next concept", go("next")],
      [["ArrowUp"], "previous concept", go("previous")],
      [["n"], "next undecided one", go("undecided")],
      [["PageDown"], "ten further", go("down")],
      [["PageUp"], "ten back", go("up")],
      [["Home"], "first", go("first")],
      [["End"], "last", go("last")],
      [["a"], "ablate it; then a reason, Enter", () => choice.press("ablate")],
      [["l"], "leave it in the model; then a reason, Enter", () => choice.press("leave")],
      [["u"], "unsure", () => choice.press("unsure")],
      [["x"], "take the decision back", () => choice.say(null)],
      [["r"], "change the reason", () => choice.reason.focus()],
      [["z"], "undo", step("undo")],
      [["y"], "redo", step("redo")],
      [["/"], "search", () => search.focus()],
      [["Escape"], "back to the list", () => list.box.focus()],
    ]);
    showFilters();
    showCount();
    showChoice();
    showDetail();
    return () => list.watch.disconnect();
  },
);
