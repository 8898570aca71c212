// Pictures of figures become figures to hover over and zoom, in the light or dark of the page.
(() => {
  const places = [...document.querySelectorAll("[data-figure]")];
  if (!places.length) return;
  const colour = /"(#[0-9A-F]{6})(?=[0-9A-F]{0,2}")/g;
  const draw = place => {
    const shades = document.body.dataset.mdColorScheme === "slate" ? JSON.parse(place.dataset.dark) : {};
    const text = place.dataset.figure.replace(colour, (_, given) => '"' + (shades[given] || given));
    const { data, layout, config } = JSON.parse(text);
    place.querySelector(":scope > img")?.remove();
    Plotly.react(place, data, layout, config);
    place.drawn = true;
  };
  const library = document.createElement("script");
  library.src = new URL("plotly.min.js", document.currentScript.src).href;
  library.onload = () => {
    const seen = new IntersectionObserver(entries => entries.forEach(entry => {
      if (entry.isIntersecting && !entry.target.drawn) draw(entry.target);
    }), { rootMargin: "400px" });
    places.forEach(place => seen.observe(place));
    new MutationObserver(() => places.filter(place => place.drawn).forEach(draw))
      .observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
  };
  document.head.append(library);
})();
