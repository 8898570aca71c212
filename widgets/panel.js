// What all panels share. Python puts this text before a panel's own module, which ends with `export default panel(…)`.
// Everything that comes from a model or a text is set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function furnish(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// An element: node("button", { class: "quiet", onclick: … }, "Undo").
const node = (tag, attributes, ...children) => furnish(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => furnish(document.createElementNS(SVG, tag), attributes, children);

// A choice among [value, words] pairs, under a label.
function chooser(label, options, value, choose) {
  const list = node("select", { "aria-label": label, title: label, onchange: () => choose(list.value) });
  list.append(...options.map(([key, words]) => node("option", { value: key, selected: key === value }, words)));
  return list;
}

// A token as it is shown: line breaks as a sign, and a dot for one that is but a part of a character.
const visible = (text) => text.replaceAll("\r", "").replaceAll("\n", "⏎") || "·";
// A single token, its spaces as signs too: a space at its edge would break the line or not be seen.
const spaced = (text) => visible(text).replaceAll(" ", "␣");
// Three significant digits with a sign of the width of a plus.
const signed = (value) =>
  (value < 0 ? "−" : "+") +
  (Math.abs(value) < 1000 ? Math.abs(value).toPrecision(3) : number(Math.round(Math.abs(value))));
const number = (value) => value.toLocaleString("en");

// A token on the shade of its value, as the contexts of `caft_lens.inspect` show it.
function token(text, value, scale, { peak = false, special = false } = {}) {
  const share = value === null ? 0 : Math.min(1, Math.abs(value) / (scale || 1));
  const shaded = share >= 0.08;
  return node(
    "span",
    {
      class:
        [shaded ? (value > 0 ? "pos" : "neg") : "", peak ? "peak" : "", special ? "special" : ""].join(" ").trim() ||
        null,
      style: shaded ? `--a:${share.toFixed(2)}` : null,
      title: value === null ? null : signed(value),
    },
    visible(text),
  );
}

// Both ends of a concept, or the one of a latent; nothing where there are no contexts.
function contexts(found) {
  if (!found) return null;
  const by = found.by;
  if (found.dead) return node("p", { class: "soft" }, "Never active on these texts.");
  const end = (kind, title, rows) =>
    node(
      "div",
      { class: `caft-end ${kind}` },
      node("h5", {}, node("i", { "aria-hidden": "true" }), title),
      rows.length ? rows.map((one) => context(one, found.scale, found.rank)) : node("p", { class: "soft" }, "nothing"),
    );
  return node(
    "div",
    { class: `caft-ends ${by}` },
    end("top", by === "latent" ? "Most active" : "Top end: highest", found.top),
    by === "latent" ? null : end("bottom", "Bottom end: lowest", found.bottom),
  );
}

// What the number beside a context is, by how texts were ranked.
const VALUES = {
  peak: "activation at the underlined token",
  mean: "mean activation over the text; its most extreme token is underlined",
};

function context(one, scale, rank) {
  const tokens = one.tokens.map((text, at) =>
    token(text, one.values[at], scale, { peak: at === one.peak, special: one.special[at] })
  );
  return node(
    "div",
    { class: "caft-context" },
    node("span", { class: "number", title: VALUES[rank] ?? VALUES.peak }, signed(one.value)),
    node(
      "span",
      { class: "said" },
      one.cut[0] ? "…" : "",
      tokens,
      one.cut[1] ? "…" : "",
      " ",
      node("small", { class: "soft" }, one.source),
    ),
  );
}

const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))).replace("-", "−"));

// The next tokens that a direction raises and lowers.
function raised(found, name = "it") {
  if (!found) return null;
  if (found.problem) {
    return node(
      "div",
      {},
      node("h5", {}, `Next tokens ${name} stands for`),
      node("p", { class: "soft" }, found.problem),
    );
  }
  const row = (title, rows) =>
    node(
      "p",
      {},
      node("span", { class: "soft" }, `${title} `),
      rows.map(([text, logit]) =>
        node("code", { title: `${signed(logit)}: how much one unit of the direction adds to the logit` }, spaced(text))
      ),
    );
  return node(
    "div",
    {},
    node(
      "h5",
      { title: "logit lens: the direction read off as the last layer would be" },
      `Next tokens ${name} stands for`,
    ),
    row("raises", found.top),
    row("lowers", found.bottom),
  );
}

function later(milliseconds, act) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), milliseconds);
  };
}

// What a panel's builder gets: its state (`get`, `set`, `on`), calls to Python (`call`), its body (`main`), keys, and a
// voice.
class Ui {
  constructor(model, element, title, lead) {
    this.model = model;
    this.heard = [];
    this.waiting = new Map();
    this.calls = new Set();
    this.gone = false;
    this.keys = new Map();
    this.said = node("div", { class: "caft-said", role: "status", "aria-live": "polite" });
    this.tools = node("div", { class: "caft-tools" });
    this.main = node("div", { class: "caft-main" });
    this.doing = node("span", { class: "caft-words" });
    this.bar = node("progress", { max: 1, "aria-label": "progress" });
    this.stop = node("button", { type: "button", onclick: () => this.call("cancel") }, "Cancel");
    this.work = node("div", { class: "caft-work", role: "status", hidden: true }, this.bar, this.doing, this.stop);
    this.wrong = node("span", { class: "caft-words" });
    this.error = node(
      "div",
      { class: "caft-error", role: "alert", hidden: true },
      this.wrong,
      node("button", { type: "button", onclick: () => this.call("dismiss") }, "Dismiss"),
    );
    this.help = node("div", {
      class: "caft-help",
      hidden: true,
      id: `caft-help-${Math.random().toString(36).slice(2)}`,
    });
    this.helper = node(
      "button",
      {
        type: "button", "aria-expanded": "false", "aria-controls": this.help.id, title: "Keys (?)",
        onclick: () => this.toggleHelp(),
      },
      "Keys",
    );
    this.root = node(
      "section",
      {
        "aria-label": title,
        hidden: true,
        tabindex: "-1",
        onkeydown: (event) => this.pressed(event),
        onclick: (event) => this.take(event),
      },
      node("header", {}, node("h3", {}, title), lead ? node("p", {}, lead) : null, this.tools, this.helper),
      this.help, this.error, this.main, this.work, this.said,
    );
    element.append(this.root);
    const answer = (content) => {
      this.waiting.get(content.id)?.(content.value);
      this.waiting.delete(content.id);
    };
    this.listen("msg:custom", answer);
    this.on(["busy", "doing", "progress"], () => this.showWork());
    this.on(["error"], () => this.showError());
  }

  // -- state

  get(name) {
    return this.model.get(name);
  }

  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.model.save_changes();
  }

  on(names, act) {
    for (const name of names) this.listen(`change:${name}`, act);
  }

  listen(event, act) {
    this.model.on(event, act);
    this.heard.push([event, act]);
  }

  // A method of the panel in Python; the promise holds what it returns.
  call(name, given = {}) {
    const id = Math.random().toString(36).slice(2);
    const answered = new Promise((answer) => {
      this.waiting.set(id, answer);
      this.model.send({ id, call: name, with: given });
    });
    this.calls.add(answered);
    answered.then(() => this.calls.delete(answered));
    return answered;
  }

  // The kernel's first answer. JupyterLab opens a way past the cells that wait to be run, but a moment after the widget
  // is there;
  // what was asked before waits with them. So it is asked again, at longer and longer intervals.
  async greeted() {
    for (let patience = 200; ; patience *= 2) {
      const late = new Promise((over) => setTimeout(over, patience));
      const answer = await Promise.race([this.call("hello"), late]);
      if (!answer && !this.gone) continue;
      this.calls.clear();
      return answer;
    }
  }

  // When all calls made so far are answered, and with that what they changed is known here.
  settled() {
    return Promise.all(this.calls);
  }

  // -- keys: what is pressed here stays here, so that JupyterLab does not take a letter for a command on the cell

  // Each of [keys, words, act]; `keys` as the browser calls them.
  shortcuts(all) {
    for (const [keys, , act] of all) for (const key of keys) this.keys.set(key, act);
    this.keys.set("?", () => this.toggleHelp());
    const shown = (key) =>
      ({ ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", " ": "Space" })[key] ?? key;
    const rows = [...all, [["?"], "show or hide these keys"]].map(([keys, words]) =>
      node("li", {}, keys.map((key) => node("kbd", {}, shown(key))), ` ${words}`),
    );
    this.help.replaceChildren(node("ul", {}, rows));
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    const written = event.target.closest("input, textarea, select");
    if (written && event.key !== "Escape") return;
    // What can be scrolled is, by the keys that scroll.
    if (event.target.closest("[data-scrolls]") && /^(Arrow|Page|Home|End)/.test(event.key)) return;
    const onButton = event.target.closest("button, summary") && (event.key === "Enter" || event.key === " ");
    const act = this.keys.get(event.key);
    if (!act || onButton) return;
    event.preventDefault();
    act(event);
  }

  // A click on what takes no focus, such as the title, gives it to the panel, so that keys pressed next are the
  // panel's.
  take(event) {
    if (event.target.closest("button, input, textarea, select, summary, a, [tabindex='0']")) return;
    if (String(window.getSelection())) return; // words that are being selected
    this.root.focus({ preventScroll: true });
  }

  toggleHelp() {
    this.help.hidden = !this.help.hidden;
    this.helper.setAttribute("aria-expanded", String(!this.help.hidden));
  }

  // -- a voice

  say(words) {
    this.said.textContent = words;
  }

  showWork() {
    const fraction = this.get("progress");
    this.work.hidden = !this.get("busy");
    this.doing.textContent = this.get("doing");
    if (fraction >= 0) this.bar.value = fraction;
    else this.bar.removeAttribute("value");
  }

  showError() {
    this.wrong.textContent = this.get("error");
    this.error.hidden = !this.get("error");
  }
}

// A widget: `build(ui)` draws into `ui.main` once the kernel has answered, and may return what is to be done at the
// end.
function panel(title, lead, build) {
  return {
    render({ model, el }) {
      const ui = new Ui(model, el, title, lead);
      const style = document.createElement("style");
      let end = null;
      // Until the kernel answers, the static rendering is seen.
      ui.greeted().then((answer) => {
        if (ui.gone) return;
        // While this view lives, the static renderings of the same panel are out of the way.
        const copy = `[data-caft="${CSS.escape(answer.id)}"]`;
        style.textContent = `.jp-OutputArea-child:has(${copy}), ${copy} { display: none }`;
        document.head.append(style);
        ui.root.classList.add("caft-panel");
        ui.root.hidden = false;
        ui.showWork();
        ui.showError();
        end = build(ui);
      });
      return () => {
        ui.gone = true;
        style.remove();
        for (const [event, act] of ui.heard) model.off(event, act);
        end?.();
      };
    },
  };
}
