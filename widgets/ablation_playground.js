const STEP = 0.05; // mean norms, of the slider and of the keys
const REACH = 1; // mean norms, at the ends of the slider
const START = 0.3; // mean norms, of a steer that was just switched on
const ROLES = { system: "system", user: "user", assistant: "assistant" };
const MARKS = { cut: [" …", "cut off at the number of new tokens"], stopped: [" (stopped)", "it was not finished"] };

const layer = (hook) => {
  const [, number, site] = hook.match(/^blocks\.(\d+)\.(.+)$/);
  return site === "hook_resid_post" ? `after layer ${number}` : `layer ${number}, ${site.replace("hook_", "")}`;
};
const figure = (value, digits = 3) => String(Number(value.toPrecision(digits))).replace("-", "−");
const percent = (
  share,
) => (share >= 0.0995
  ? String(Math.round(100 * share))
  : share >= 0.001
  ? (100 * share).toFixed(1)
  : share > 0
  ? "<0.1"
  : "0");
const changeWords = (changes) =>
  Object.entries(changes).map((
    [name, change],
  ) => (change === "ablate" ? `${name} ablated` : `${name} steered ${change < 0 ? "" : "+"}${figure(change)}`)).join(
    ", ",
  );

// What is done with each concept: off, ablated, or steered by so much.
class Concepts {
  constructor(ui) {
    this.ui = ui;
    this.total = 0;
    this.rows = new Map();
    this.list = node("div", { class: "ap-concepts", role: "group", "aria-label": "concepts" });
    this.count = node("span", { class: "soft" });
    this.search = node("input", {
      type: "search",
      placeholder: "Find a concept",
      "aria-label": "find a concept",
      hidden: true,
      oninput: later(120, () => this.fetch()),
    });
    this.none = node(
      "button",
      { type: "button", class: "ap-quiet", onclick: () => ui.set({ changes: {} }) },
      "All off",
    );
    this.box = node(
      "div",
      { class: "ap-part" },
      node("div", { class: "ap-title" }, node("h4", {}, "Concepts"), this.count, this.none, this.search),
      node(
        "p",
        {},
        "Ablate removes a direction from the activations at its layer, at every token. Steer adds it " +
          "instead: 1 is as long as the activations there are on average, a minus sign goes the other way.",
      ),
      this.list,
    );
    ui.on(["changes", "concept", "lengths"], () => this.show());
    this.fetch();
  }

  async fetch() {
    const found = await this.ui.call("rows", { query: this.search.value });
    if (!found) return;
    this.search.hidden = this.ui.get("about").size <= 8;
    this.rows = new Map(found.rows.map((row) => [row[0], this.row(row)]));
    this.total = found.total;
    this.list.replaceChildren(...[...this.rows.values()].map((row) => row.box));
    if (!this.rows.size) {
      this.list.append(node("p", { class: "soft" }, "No concept has these words in its name, label or reason."));
    }
    this.show();
  }

  row([name, label, reason, hook]) {
    const modes = [["off", "Off", "leave it as it is"], ["ablate", "Ablate", "remove the direction"], [
      "steer",
      "Steer",
      "add the direction",
    ]].map(([mode, words, title]) =>
      node("button", { type: "button", "data-mode": mode, title, onclick: () => this.turn(name, mode) }, words)
    );
    const push = (value) => Number.isFinite(value) && this.change(name, value);
    const slider = node("input", {
      type: "range",
      min: -REACH,
      max: REACH,
      step: STEP,
      "aria-label": `strength of ${name}, in mean norms`,
      oninput: later(150, () => push(slider.valueAsNumber)),
    });
    const exact = node("input", {
      type: "number",
      step: STEP,
      "aria-label": `strength of ${name}, in mean norms, as a number`,
      onchange: () => push(exact.valueAsNumber),
    });
    const length = node("span", { class: "soft number", title: "the length that is added, as cl.steer takes it" });
    const strength = node("div", { class: "ap-strength" }, slider, exact, length);
    const title = [label, reason, hook].filter(Boolean).join("\n");
    const box = node(
      "div",
      {
        class: "ap-concept",
        role: "group",
        "aria-label": `${name}${label ? `: ${label}` : ""}`,
        onclick: () => this.select(name),
        onfocusin: () => this.select(name),
      },
      node(
        "div",
        { class: "ap-name", title },
        node("b", {}, name),
        " ",
        node("span", { class: "soft" }, layer(hook)),
        ` ${label || reason}`,
      ),
      node("div", { class: "ap-modes", role: "group", "aria-label": "what is done with it" }, modes),
      strength,
    );
    return { box, modes, slider, exact, length, strength };
  }

  select(name) {
    if (this.ui.get("concept") !== name) this.ui.set({ concept: name });
  }

  change(name, change) {
    const changes = { ...this.ui.get("changes") };
    if (change === null) delete changes[name];
    else changes[name] = change;
    this.ui.set({ changes, concept: name });
    this.ui.say(change === null ? `${name} off` : changeWords({ [name]: change }));
  }

  turn(name, mode) {
    const now = this.ui.get("changes")[name];
    if (mode === "steer") this.change(name, typeof now === "number" ? now : START);
    else this.change(name, mode === "off" ? null : "ablate");
  }

  // The selected concept: what a key does is done with it.
  press(mode) {
    this.turn(this.ui.get("concept"), mode);
  }

  nudge(by) {
    const name = this.ui.get("concept");
    const now = this.ui.get("changes")[name];
    this.change(name, Number(((typeof now === "number" ? now : 0) + by).toFixed(4)));
  }

  go(by) {
    const names = [...this.rows.keys()];
    const at = names.indexOf(this.ui.get("concept"));
    const name = names[Math.min(Math.max(at + by, 0), names.length - 1)];
    if (!name) return;
    this.select(name);
    this.rows.get(name).box.scrollIntoView({ block: "nearest" });
    this.ui.say(name);
  }

  show() {
    const [changes, lengths, selected] = [this.ui.get("changes"), this.ui.get("lengths"), this.ui.get("concept")];
    for (const [name, row] of this.rows) {
      const change = changes[name];
      const mode = change === undefined ? "off" : change === "ablate" ? "ablate" : "steer";
      row.box.setAttribute("aria-current", String(name === selected));
      for (const button of row.modes) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
      row.strength.classList.toggle("idle", mode !== "steer");
      if (mode !== "steer") continue;
      if (document.activeElement !== row.slider) row.slider.value = change;
      if (document.activeElement !== row.exact) row.exact.value = change;
      row.length.textContent = lengths[name] ? `length ${figure(change * lengths[name])}` : "";
    }
    const on = Object.keys(changes).length;
    const listed = this.rows.size < this.total ? `, ${this.rows.size} of ${number(this.total)} listed` : "";
    this.count.textContent = `${on || "none"} changed${listed}`;
    this.none.hidden = !on;
  }
}

// How answers are sampled.
function settings(ui) {
  const all = [
    ["temperature", "Temperature", { min: 0, max: 5, step: 0.1 }, "0 always takes the most probable token"],
    [
      "top_p",
      "Top-p",
      { min: 0.05, max: 1, step: 0.05 },
      "sample from the most probable tokens that together have this probability; 1 is all",
    ],
    ["max_new_tokens", "New tokens", { min: 1, max: 4096, step: 1 }, "length of an answer at most"],
    ["seed", "Seed", { min: 0, step: 1, class: "ap-seed" }, "the same seed gives the same answers"],
  ];
  const inputs = all.map(([name, words, limits, title]) => {
    const input = node("input", {
      type: "number",
      ...limits,
      onchange: () => Number.isFinite(input.valueAsNumber) && ui.set({ [name]: input.valueAsNumber }),
    });
    return [name, input, node("label", { title }, words, input)];
  });
  const dice = node("button", {
    type: "button",
    title: "other random numbers: other answers",
    onclick: () => ui.set({ seed: Math.floor(Math.random() * 1e6) }),
  }, "New seed");
  const live = node("input", { type: "checkbox", onchange: () => ui.set({ live: live.checked }) });
  const show = () => {
    for (const [name, input] of inputs) {
      if (document.activeElement !== input || ui.get("error")) input.value = ui.get(name);
    }
    live.checked = ui.get("live");
  };
  ui.on([...all.map(([name]) => name), "live", "error"], show);
  show();
  return node(
    "div",
    { class: "ap-part ap-settings", role: "group", "aria-label": "sampling" },
    inputs.map(([, , label]) => label),
    dice,
    node("label", { title: "otherwise, only when you press Answer" }, live, "Answer every change at once"),
  );
}

// One prompt: what is asked, and the answers below it.
class Card {
  constructor(ui, at) {
    this.ui = ui;
    this.at = at;
    this.shape = "";
    this.head = node("div", { class: "ap-head" });
    this.turns = node("div");
    this.answers = node("div", { class: "ap-answers" });
    this.cells = new Map();
    this.hint = node("p", { class: "ap-hint", role: "note", hidden: true });
    this.box = node(
      "section",
      { class: "ap-card", "aria-label": `prompt ${at + 1}` },
      this.head,
      this.turns,
      this.hint,
      this.answers,
    );
    // A card that was taken away meanwhile must not write over the prompt that has its number now.
    this.send = later(600, () => this.box.isConnected && this.store());
    this.showPrompt();
    this.showAnswers();
  }

  prompt() {
    return this.ui.get("prompts")[this.at];
  }

  // What is written now, as the kernel holds prompts.
  written() {
    const words = [...this.turns.querySelectorAll("textarea")].map((one) => [one.dataset.role, one.value]);
    return words[0]?.[0] === "text"
      ? { text: words[0][1] }
      : { messages: words.map(([role, content]) => ({ role, content })) };
  }

  store(prompt = this.written()) {
    if (JSON.stringify(prompt) === JSON.stringify(this.prompt())) return;
    this.ui.set({ prompts: this.ui.get("prompts").with(this.at, prompt) });
  }

  showPrompt() {
    const prompt = this.prompt();
    const messages = prompt.messages ?? [{ role: "text", content: prompt.text }];
    const shape = JSON.stringify([messages.map((one) => one.role), this.ui.get("prompts").length]);
    if (shape !== this.shape) this.build(prompt, messages, shape);
    this.turns.querySelectorAll("textarea").forEach((area, number) => {
      if (document.activeElement !== area) area.value = messages[number].content;
    });
  }

  build(prompt, messages, shape) {
    this.shape = shape;
    const about = this.ui.get("about");
    const users = messages.findLast((one) => one.role === "user")?.content ?? "";
    const kinds = chooser(
      "kind of prompt", [["chat", "as a chat"], ["text", "as plain text"]], prompt.messages ? "chat" : "text",
      (kind) => this.store(kind === "text" ? { text: users } : { messages: [{ role: "user", content: prompt.text }] }),
    );
    const act = (words, title, make) =>
      node("button", { type: "button", class: "ap-quiet", title, onclick: () => make() }, words);
    const chat = this.written.bind(this);
    const system = about.system && prompt.messages && messages[0].role !== "system" &&
      act(
        "+ system message",
        "what the model is told before the chat",
        () => this.store({ messages: [{ role: "system", content: "" }, ...chat().messages] }),
      );
    const turn = prompt.messages &&
      act(
        "+ turn",
        "an answer that was given, and what is said then",
        () =>
          this.store({
            messages: [...chat().messages, { role: "assistant", content: "" }, { role: "user", content: "" }],
          }),
      );
    const gone = act(
      "Remove",
      "remove this prompt",
      () => this.ui.set({ prompts: this.ui.get("prompts").toSpliced(this.at, 1) }),
    );
    this.head.replaceChildren(
      ...[node("h4", {}, `Prompt ${this.at + 1}`), about.chat && kinds, system, turn, gone].filter(Boolean),
    );
    this.turns.replaceChildren(...messages.map(({ role }, number) => this.turn(role, number, messages)));
  }

  turn(role, number, messages) {
    const alone = messages.length === 1;
    const area = node("textarea", {
      rows: 1,
      "data-role": role,
      "aria-label": alone ? `prompt ${this.at + 1}` : `${role} message`,
      placeholder: role === "text"
        ? "Text that the models go on with"
        : role === "system"
        ? "Such as: Be brief."
        : "Ask something",
      oninput: () => this.send(),
      onchange: () => this.store(),
      onkeydown: (event) => this.typed(event),
    });
    const needed = alone || (role !== "system" && number === messages.length - 1);
    const less = !needed &&
      node("button", {
        type: "button",
        class: "ap-quiet",
        title: `remove this ${role} message`,
        "aria-label": `remove this ${role} message`,
        onclick: () => this.shorten(number),
      }, "✕");
    return node(
      "div",
      { class: alone ? "ap-turn alone" : "ap-turn" },
      node("span", {}, ROLES[role] ?? ""),
      area,
      less || null,
    );
  }

  // Without one message; a turn goes with its answer, so that roles still alternate.
  shorten(number) {
    const messages = this.written().messages;
    messages.splice(number, messages[number].role === "system" ? 1 : 2);
    this.store({ messages });
  }

  typed(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation();
      this.store();
      this.ui.call("run");
    }
  }

  showAnswers() {
    const row = this.ui.get("answers")[this.at];
    const columns = this.ui.get("about").columns.filter(([key]) => this.ui.get("shown").includes(key));
    this.answers.style.setProperty("--columns", columns.length || 1);
    const keys = columns.map(([key]) => key).join();
    if (keys !== this.keys) {
      this.keys = keys;
      this.cells = new Map(columns.map(([key, title, model]) => [key, new Cell(key, title, model)]));
      this.answers.replaceChildren(...[...this.cells.values()].map((cell) => cell.box));
    }
    for (const cell of this.cells.values()) cell.show(row);
    this.hint.textContent = row?.hint ?? "";
    this.hint.hidden = !row?.hint;
  }
}

// One answer, and what the next token is.
class Cell {
  constructor(key, title, model) {
    this.key = key;
    this.changed = key.endsWith("_changed");
    this.by = node("span", { class: "soft" }, model);
    this.text = node("p", { class: "ap-answer said" });
    this.next = node("div", { class: "ap-next" });
    this.box = node(
      "div",
      { class: this.changed ? "ap-cell changed" : "ap-cell", role: "group", "aria-label": title, "data-column": key },
      node("h5", {}, node("b", {}, title), this.by),
      this.text,
      this.next,
    );
  }

  show(row) {
    const cell = row?.cells[this.key];
    const changes = row?.changes ?? {};
    if (this.changed) this.by.textContent = cell ? changeWords(changes) : "";
    this.text.classList.toggle("ap-writing", cell?.state === "writing");
    const plain = this.changed && row?.cells[this.key.replace("_changed", "")];
    const same = plain && cell && cell.state === plain.state && ["end", "cut"].includes(cell.state) &&
      cell.text === plain.text;
    const [mark, title] = MARKS[cell?.state] ?? [];
    const hint = !row || cell
      ? null
      : Object.keys(changes).length || !this.changed
      ? null
      : "Nothing is changed yet. Set a concept to Ablate or Steer.";
    const drawn = JSON.stringify([cell, same, hint]);
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      this.text.replaceChildren(
        ...[
          cell?.text,
          mark && node("span", { class: "soft", title }, mark),
          same && node("span", { class: "soft" }, " (the same answer)"),
          hint && node("span", { class: "soft" }, hint),
        ].filter(Boolean),
      );
    }
    this.showNext(row?.next[this.key]);
  }

  showNext(ahead) {
    const drawn = JSON.stringify(ahead ?? null);
    if (drawn === this.ahead) return;
    this.ahead = drawn;
    if (!ahead) return this.next.replaceChildren();
    if (ahead.top) {
      const rows = ahead.top.map(([text, share]) => this.row(text, share, share));
      return this.next.replaceChildren(node("p", {}, "First token: most probable"), ...rows);
    }
    const apart = ahead.kl.map(([name, value]) => `${figure(value, 2)} from ${name}`).join(", ");
    const rows = ahead.moved.map(([text, before, after]) => this.row(text, before, after));
    return this.next.replaceChildren(
      node("p", {
        title: "Kullback-Leibler divergence of the distribution of the first token, in nats: 0 is no change",
      }, `KL ${apart}`),
      ...rows,
    );
  }

  row(text, before, after) {
    const [low, high] = [Math.min(before, after), Math.max(before, after)];
    const part = (kind, from, to) =>
      node("i", { class: kind, style: `left:${100 * from}%;width:${100 * (to - from)}%` });
    const words = before === after ? `${percent(after)} %` : `${percent(before)} → ${percent(after)} %`;
    return node(
      "div",
      { class: "ap-token" },
      node("code", { title: spaced(text) }, spaced(text)),
      node(
        "span",
        { class: "ap-track", "aria-hidden": "true" },
        part("same", 0, low),
        before === after ? null : part(after > before ? "up" : "down", low, high),
      ),
      node("span", { class: "number" }, words),
    );
  }
}

export default panel("Ablation playground", "Ablate or steer concepts, and compare what the models answer.", (ui) => {
  const concepts = new Concepts(ui);
  const cards = node("div");
  let all = [];
  const answer = node("button", { type: "button", onclick: () => ui.call("run") }, "Answer ", node("kbd", {}, "G"));
  const stop = node("button", { type: "button", onclick: () => ui.call("cancel") }, "Stop ", node("kbd", {}, "Esc"));
  ui.tools.append(answer, stop);
  const stale = node(
    "div",
    { class: "ap-stale", role: "status" },
    "The answers below are not to all that is asked now: press Answer.",
  );
  const columns = node("span", { role: "group", "aria-label": "columns" });
  const add = node("button", { type: "button", onclick: () => more() }, "+ Prompt");
  ui.main.append(
    concepts.box, settings(ui), stale, cards,
    node(
      "div",
      { class: "ap-foot" },
      add,
      columns,
      node(
        "p",
        { class: "ap-key" },
        "Below each answer: the first tokens it could have begun with, those whose probability moved most, " +
          "from → to. A full bar is 100 %; solid has risen, striped has fallen. KL, in nats, sums up how far " +
          "all of them moved; 0 is not at all.",
      ),
    ),
  );
  const more = () => {
    ui.set({
      prompts: [
        ...ui.get("prompts"),
        ui.get("about").chat ? { messages: [{ role: "user", content: "" }] } : { text: "" },
      ],
    });
    showPrompts();
    all.at(-1).turns.querySelector("textarea").focus();
  };
  const showPrompts = () => {
    const wanted = ui.get("prompts").length;
    if (all.length !== wanted) {
      all = Array.from(
        { length: wanted },
        (_, at) => all.length > wanted ? new Card(ui, at) : (all[at] ?? new Card(ui, at)),
      );
      cards.replaceChildren(...all.map((card) => card.box));
      if (!wanted) cards.append(node("p", { class: "ap-card soft" }, "No prompt yet: add one below."));
    }
    for (const card of all) card.showPrompt();
  };
  const showAnswers = () => {
    for (const card of all) card.showAnswers();
  };
  const showColumns = () => {
    const shown = ui.get("shown");
    const toggle = (key) =>
      ui.set({ shown: shown.includes(key) ? shown.filter((one) => one !== key) : [...shown, key] });
    columns.replaceChildren(
      "Columns: ",
      ...ui.get("about").columns.map(([key, title]) =>
        node("button", {
          type: "button",
          class: "ap-quiet",
          "aria-pressed": String(shown.includes(key)),
          onclick: () => toggle(key),
        }, title)
      ),
    );
  };
  const showWork = () => {
    const busy = ui.get("busy");
    stop.disabled = !busy;
    stale.hidden = busy || !ui.get("stale") || !ui.get("prompts").length;
  };
  ui.on(["prompts"], showPrompts);
  ui.on(["answers"], showAnswers);
  ui.on(["shown"], () => (showColumns(), showAnswers()));
  ui.on(["busy", "stale", "prompts"], showWork);
  ui.on(["busy"], () => ui.get("busy") || ui.say(ui.get("stale") ? "Stopped." : "The answers are there."));
  ui.shortcuts([
    [["ArrowDown", "j"], "next concept", () => concepts.go(1)],
    [["ArrowUp", "k"], "previous concept", () => concepts.go(-1)],
    [["a"], "ablate it", () => concepts.press("ablate")],
    [["s"], "steer along it", () => concepts.press("steer")],
    [["o"], "off: leave it as it is", () => concepts.press("off")],
    [["ArrowRight", "+"], "steer further", () => concepts.nudge(STEP)],
    [["ArrowLeft", "-"], "steer less, then the other way", () => concepts.nudge(-STEP)],
    [["g"], "answer (in a prompt: Ctrl+Enter)", () => ui.call("run")],
    [["n"], "new seed", () => ui.set({ seed: Math.floor(Math.random() * 1e6) })],
    [["p"], "write the first prompt", () => (all.length ? cards.querySelector("textarea").focus() : more())],
    [["Escape"], "stop; from a prompt, back to the concepts", (event) => {
      if (event.target.closest("textarea, input")) concepts.rows.get(ui.get("concept"))?.modes[0].focus();
      else ui.call("cancel");
    }],
  ]);
  showPrompts();
  showColumns();
  showWork();
});
