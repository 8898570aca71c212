const HIGH = 26; // pixels of a cell
const WIDE = [20, 44]; // least and most

// One map: layers upwards as the text is read, tokens from left to right, on a canvas, for there may be many thousand
// cells.
class TokenMap {
  constructor(ui, number) {
    this.ui = ui;
    this.number = number;
    this.canvas = node("canvas", {
      role: "application", tabindex: "0", "aria-roledescription": "map of layers and tokens",
      onclick: (event) => this.choose(this.at(event)),
      onmousemove: (event) => this.point(this.at(event)),
      onmouseleave: () => this.point(null),
      onkeydown: (event) => this.walk(event),
    });
    this.head = node("div", { class: "le-head" });
    this.layers = node("div", { class: "le-layers", "aria-hidden": "true" });
    this.tokens = node("div", { class: "le-tokens", "aria-hidden": "true" });
    // One box for all of it: the labels scroll with their rows and columns, and stay in sight at its edges.
    this.scroll = node(
      "div",
      { class: "le-scroll" },
      node("div", { class: "le-corner" }),
      this.tokens,
      this.layers,
      this.canvas,
    );
    this.root = node("div", { class: "le-map" }, this.head, this.scroll);
  }

  get maps() {
    return this.ui.get("maps");
  }

  get of() {
    return this.maps.of[this.number];
  }

  draw() {
    const { tokens, special, layers } = this.maps;
    const room = this.root.clientWidth - 60;
    this.wide = Math.max(WIDE[0], Math.min(WIDE[1], Math.floor(room / tokens.length)));
    const [width, height] = [this.wide * tokens.length, HIGH * layers.length];
    this.head.replaceChildren(this.title(), this.legend());
    this.layers.replaceChildren(...[...layers].reverse().map((layer) => node("span", {}, `L${layer}`)));
    this.tokens.replaceChildren(
      ...tokens.map((text, at) =>
        node(
          "span",
          { class: special[at] ? "special" : null, title: text, style: `width:${this.wide}px` },
          visible(text),
        )
      ),
    );
    this.tokens.style.width = `${width}px`;
    const sharp = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: width * sharp, height: height * sharp });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    this.paint(sharp);
  }

  title() {
    const { name, label } = this.of;
    const chosen = this.ui.get("concept") === name;
    return node(
      "span",
      { class: "le-title" },
      node("button", {
        type: "button",
        "aria-pressed": String(chosen),
        title: "select this concept",
        onclick: () => this.ui.set({ concept: name }),
      }, name),
      label ? node("em", {}, ` ${label}`) : null,
      this.maps.of.length > 1
        ? node("button", {
          type: "button",
          class: "quiet",
          title: `do not show ${name}`,
          "aria-label": `do not show ${name}`,
          onclick: () => this.ui.call("hide_concept", { name }),
        }, "×")
        : null,
    );
  }

  legend() {
    const most = Math.max(...this.of.scales);
    const ends = this.ui.get("shade") === "layer" ? ["− largest of its layer", "+"] : [signed(-most), signed(most)];
    return node(
      "span",
      { class: "le-legend" },
      node("span", { class: "number" }, ends[0]),
      node("i", { "aria-hidden": "true" }),
      node("span", { class: "number" }, ends[1]),
    );
  }

  paint(sharp) {
    const style = getComputedStyle(this.root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [positive, negative] = [colour("--caft-pos"), colour("--caft-neg")];
    const draw = this.canvas.getContext("2d");
    draw.scale(sharp, sharp);
    draw.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const { values, scales } = this.of;
    values.forEach((row, layer) => {
      const y = HIGH * (values.length - 1 - layer);
      row.forEach((value, at) => {
        const share = Math.min(1, Math.abs(value) / scales[layer]);
        draw.fillStyle = `rgb(${value > 0 ? positive : negative} / ${share})`;
        draw.fillRect(at * this.wide, y, this.wide - 1, HIGH - 1);
      });
    });
    const cell = this.ui.get("cell");
    if (cell.length) {
      draw.strokeStyle = colour("color");
      draw.lineWidth = 2;
      const layer = cell[0];
      draw.strokeRect(cell[1] * this.wide, HIGH * (values.length - 1 - layer), this.wide - 1, HIGH - 1);
    }
    this.canvas.setAttribute(
      "aria-label",
      `${this.of.name}: ${values.length} layers by ${values[0].length} tokens. ${
        cell.length ? this.words(cell) : "Arrow keys choose a cell."
      }`,
    );
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const { layers, tokens } = this.maps;
    const layer = layers.length - 1 - Math.floor((event.clientY - box.top) / HIGH);
    const position = Math.floor((event.clientX - box.left) / this.wide);
    return layer < 0 || layer >= layers.length || position < 0 || position >= tokens.length ? null : [layer, position];
  }

  words([layer, position]) {
    return `Token ${position} “${visible(this.maps.tokens[position])}”, layer ${
      this.maps.layers[layer]
    }: ${this.of.name} ${signed(this.of.values[layer][position])}`;
  }

  point(cell) {
    this.ui.readout.textContent = cell ? this.words(cell) : this.ui.hint();
  }

  choose(cell) {
    if (!cell) return;
    this.ui.set({ concept: this.of.name, cell });
    this.ui.say(this.words(cell));
  }

  walk(event) {
    const steps = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!steps || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [layers, length] = [this.maps.layers.length, this.maps.tokens.length];
    const cell = this.ui.get("cell");
    const from = cell.length ? cell : [layers - 1 + (steps[0] > 0 ? -1 : steps[0] < 0 ? 1 : 0), steps[1] > 0 ? -1 : 0];
    const within = (value, most) => Math.min(Math.max(value, 0), most - 1);
    this.choose([within(from[0] + steps[0], layers), within(from[1] + steps[1], length)]);
    this.reveal(this.ui.get("cell"));
  }

  // Scroll as far as it takes to see a cell beside the labels.
  reveal([layer, position]) {
    const [row, column] = [HIGH * (this.maps.layers.length - 1 - layer), this.wide * position];
    const [wide, high] = [
      this.scroll.clientWidth - this.layers.offsetWidth,
      this.scroll.clientHeight - this.tokens.offsetHeight,
    ];
    if (column < this.scroll.scrollLeft || column + this.wide > this.scroll.scrollLeft + wide) {
      this.scroll.scrollLeft = column - wide / 2;
    }
    if (row < this.scroll.scrollTop || row + HIGH > this.scroll.scrollTop + high) {
      this.scroll.scrollTop = row - high / 2;
    }
  }
}

// The value of one token at every layer, a line a concept.
function lines(ui) {
  const { of, layers, tokens } = ui.get("maps");
  const [layer, position] = ui.get("cell");
  const [width, height, left, low] = [300, 150, 44, 20];
  const every = of.map((one) => one.values.map((row) => row[position]));
  const most = Math.max(...every.flat().map(Math.abs)) || 1;
  const x = (at) => left + ((width - left - 12) * (layers.length > 1 ? at / (layers.length - 1) : 0.5));
  const y = (value) => (height - low) / 2 - (((height - low) / 2 - 8) * value) / most;
  const dashes = ["", "6 3", "2 3", "8 3 2 3"];
  const drawn = every.map((values, number) => [
    svg("polyline", {
      points: values.map((value, at) => `${x(at)},${y(value)}`).join(" "),
      "stroke-dasharray": dashes[number],
      class: of[number].name === ui.get("concept") ? "chosen" : null,
    }),
    values.map((value, at) =>
      svg(
        "circle",
        { cx: x(at), cy: y(value), r: at === layer ? 4 : 2.5, class: value > 0 ? "up" : "down" },
        svg("title", {}, `${of[number].name}, layer ${layers[at]}: ${signed(value)}`),
      )
    ),
  ]);
  const every_other = Math.ceil(layers.length / 12);
  return node(
    "div",
    {},
    node("h5", {}, `“${visible(tokens[position])}” at every layer`),
    svg(
      "svg",
      {
        class: "le-lines",
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": every.map((values, number) => `${of[number].name}: ${values.map(signed).join(", ")}`).join("; "),
      },
      svg("line", { x1: left, x2: width - 6, y1: y(0), y2: y(0) }),
      [most, 0, -most].map((value) =>
        svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value ? signed(value) : "0")
      ),
      layers.map((
        one,
        at,
      ) => (at % every_other ? null : svg("text", { x: x(at), y: height - 4, "text-anchor": "middle" }, `L${one}`))),
      drawn.flat(2),
    ),
    of.length > 1
      ? node(
        "p",
        { class: "soft" },
        of.map((one, number) =>
          node(
            "span",
            { class: "le-key" },
            svg(
              "svg",
              { viewBox: "0 0 26 8", width: 26, height: 8, class: "le-lines" },
              svg("polyline", { points: "0,4 26,4", "stroke-dasharray": dashes[number] }),
            ),
            ` ${one.name}`,
          )
        ),
      )
      : null,
  );
}

function cellDetails(ui) {
  const cell = ui.get("cell");
  const { layers, tokens } = ui.get("maps");
  if (!cell.length || !tokens) {
    return [
      node(
        "p",
        { class: "soft le-empty" },
        "Click a cell, or walk with the arrow keys: its value at every layer, what the model would say next" +
          " from there, and the concept's contexts show here.",
      ),
    ];
  }
  const detail = ui.get("detail");
  const known = detail.name === ui.get("concept") && String(detail.cell) === String(cell);
  const next = known ? detail.next : null;
  return [
    node(
      "div",
      { class: "le-three" },
      lines(ui),
      node(
        "div",
        {},
        node("h5", {
          title: "logit lens of this cell: the residual stream after this layer read off as the last layer would be",
        }, `What would come next, read off after layer ${layers[cell[0]]}`),
        !next
          ? node("p", { class: "soft" }, "…")
          : next.problem
          ? node("p", { class: "soft" }, next.problem)
          : node(
            "ol",
            { class: "le-next" },
            next.map(([text, share]) =>
              node(
                "li",
                {},
                node("i", { style: `width:${(100 * share).toFixed(1)}%`, "aria-hidden": "true" }),
                node("code", {}, visible(text)),
                node("span", { class: "number" }, `${(100 * share).toFixed(1)} %`),
              )
            ),
          ),
      ),
      known ? raised(detail.tokens, detail.name) : null,
    ),
    known
      ? node(
        "div",
        {},
        node("h5", {}, `Contexts of ${detail.name}${detail.label ? `, ${detail.label}` : ""}, found at ${detail.hook}`),
        contexts(detail.contexts) ?? node("p", { class: "soft" }, "None were given: contexts= when making the panel."),
      )
      : null,
  ].filter(Boolean);
}

export default panel(
  "Layers",
  "Where in a text, and from which layer on, a direction is active. Type, and the map follows.",
  (ui) => {
    const about = ui.get("about");
    const field = (name, label, rows) => {
      const area = node("textarea", {
        "aria-label": label,
        placeholder: label,
        rows,
        value: ui.get(name),
        spellcheck: "false",
        oninput: later(250, () => ui.set({ [name]: area.value })),
      });
      ui.on([name], () => {
        if (document.activeElement !== area) area.value = ui.get(name);
      });
      return area;
    };
    const prompt = field("text", "Text, or what you say to the assistant", 2);
    const answer = field("answer", "What the assistant answers (may be empty)", 2);
    const listId = `le-list-${Math.random().toString(36).slice(2)}`;
    const suggestions = node("datalist", { id: listId });
    const add = node("input", {
      type: "text",
      list: listId,
      placeholder: "add a concept…",
      "aria-label": "add a concept",
      autocomplete: "off",
      oninput: later(150, async () => {
        const found = (await ui.call("suggest", { begun: add.value })) ?? [];
        suggestions.replaceChildren(...found.map(([name, label]) => node("option", { value: name }, label)));
        if (found.some(([name]) => name === add.value)) take();
      }),
      onkeydown: (event) => event.key === "Enter" && take(),
    });
    const take = () => {
      const name = add.value.trim();
      if (!name) return;
      add.value = "";
      ui.call("show_concept", { name });
    };
    const sites = {
      hook_resid_post: "after the layer",
      hook_resid_pre: "before the layer",
      hook_attn_out: "attention's output",
      hook_mlp_out: "MLP's output",
    };
    const settings = node("div", { class: "le-settings" });
    const showSettings = () =>
      settings.replaceChildren(
        ...[
          about.chat &&
          node(
            "label",
            {},
            node("input", {
              type: "checkbox",
              checked: ui.get("chat"),
              onchange: (event) => ui.set({ chat: event.target.checked }),
            }),
            " as a chat message",
          ),
          node(
            "label",
            {},
            "at ",
            chooser(
              "hook site",
              about.sites.map((one) => [one, `${one}: ${sites[one]}`]),
              ui.get("site"),
              (site) => ui.set({ site }),
            ),
          ),
          node(
            "label",
            {},
            "full colour: ",
            chooser(
              "full colour",
              [["all", "largest of all layers"], ["layer", "largest of each layer"]],
              ui.get("shade"),
              (shade) => ui.set({ shade }),
            ),
          ),
          node(
            "label",
            { title: "divide by the length of the activation, so that late layers compare with early ones" },
            node("input", {
              type: "checkbox",
              checked: ui.get("cosine"),
              onchange: (event) => ui.set({ cosine: event.target.checked }),
            }),
            " cosine",
          ),
          about.concepts > 1 && add,
          suggestions,
        ].filter(Boolean),
      );
    ui.readout = node("div", { class: "le-readout soft" });
    ui.hint = () => {
      const maps = ui.get("maps");
      if (!maps.tokens) return "";
      return `${maps.quantity[0].toUpperCase()}${maps.quantity.slice(1)}; orange is positive, blue negative.${
        maps.left_out ? ` The last ${maps.left_out} tokens are left out.` : ""
      }`;
    };
    const area = node("div", { class: "le-maps" });
    const body = node("div", { class: "le-body" });
    ui.main.append(node("div", { class: "le-texts" }, prompt, answer), settings, area, ui.readout, body);

  let drawn = [];
  const draw = () => {
    const maps = ui.get("maps");
    answer.hidden = !ui.get("chat");
    if (!maps.tokens) {
      drawn = [];
      area.replaceChildren(node("p", { class: "soft le-empty" }, "Type a text above, and its map shows here."));
    } else {
      const focused = drawn.findIndex((one) => one.canvas === document.activeElement);
      if (drawn.length !== maps.of.length) {
        drawn = maps.of.map((_, number) => new TokenMap(ui, number));
        area.replaceChildren(...drawn.map((one) => one.root));
      }
      for (const one of drawn) one.draw();
      drawn[focused]?.canvas.focus();
    }
    ui.readout.textContent = ui.hint();
    tell();
  };
  const tell = () => body.replaceChildren(...cellDetails(ui));
  ui.on(["maps"], draw);
  ui.on(["cell", "concept"], () => {
    for (const one of drawn) one.draw();
    tell();
  });
  ui.on(["detail"], tell);
  ui.on(["chat", "site", "shade", "cosine"], () => {
    showSettings();
    answer.hidden = !ui.get("chat");
  });
  ui.shortcuts([
    [["e"], "edit the text", () => prompt.focus()],
    [["m"], "to the map", () => drawn[0]?.canvas.focus()],
    [["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], "another cell, on the map", () => drawn[0]?.canvas.focus()],
    [["c"], "add a concept", () => add.focus()],
    [["Escape"], "back to the map", () => drawn[0]?.canvas.focus()],
  ]);
  const resized = new ResizeObserver(later(60, () => drawn.forEach((one) => one.draw())));
  resized.observe(area);
  // Colours of the canvas follow the theme.
  const themed = new MutationObserver(() => drawn.forEach((one) => one.draw()));
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  showSettings();
  draw();
  return () => {
    resized.disconnect();
    themed.disconnect();
  };
});
