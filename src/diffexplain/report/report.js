"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pictures = data.pictures;
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const by = (id) => document.getElementById(id);

  // An element with its attributes and children; text stays text.
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  // Each picture stands in the page once; an <img> takes it when it comes near the screen.
  const load = (img) => {
    if (!img.hasAttribute("src")) img.src = pictures[Number(img.dataset.picture)];
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { load(entry.target); near.unobserve(entry.target); }
    }
  }, { rootMargin: "600px" });
  const watch = (root) => all("img[data-picture]", root).forEach((img) => near.observe(img));
  watch(document);

  // ---- one pair: slider, difference, inset ----------------------------------------------------------
  const shot = (kind, number, alt, badge) => {
    const span = make("span", { class: "shot " + kind }, make("img", { "data-picture": number, alt }));
    if (badge) span.append(make("span", { class: "badge", "aria-hidden": "true" }, badge));
    return span;
  };

  const pixels = async (number) => {
    const img = new Image();
    img.src = pictures[number];
    await img.decode();
    const canvas = make("canvas", { width: img.naturalWidth, height: img.naturalHeight });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(img, 0, 0);
    return { canvas, width: canvas.width, height: canvas.height, at: pen.getImageData(0, 0, canvas.width, canvas.height).data };
  };

  // Largest change of a channel at each pixel, 0 to 255, and the box that holds all changes that one sees.
  const SEEN = 40;
  const difference = (a, b) => {
    const size = a.width * a.height, change = new Uint8ClampedArray(size);
    let left = a.width, top = a.height, right = -1, bottom = -1, most = 1;
    for (let i = 0; i < size; i++) {
      const k = 4 * i;
      const d = Math.max(Math.abs(a.at[k] - b.at[k]), Math.abs(a.at[k + 1] - b.at[k + 1]), Math.abs(a.at[k + 2] - b.at[k + 2]));
      change[i] = d;
      if (d > most) most = d;
      if (d > SEEN) {
        const x = i % a.width, y = (i - x) / a.width;
        left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
      }
    }
    return { change, most, box: right < 0 ? null : { x: left, y: top, w: right - left + 1, h: bottom - top + 1 } };
  };

  // Black, purple, orange, pale yellow: light rises evenly, so it reads in grey and by any eye.
  const RAMP = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const colour = (share) => {
    const at = Math.min(share, 0.9999) * (RAMP.length - 1), k = Math.floor(at);
    return RAMP[k].map((from, c) => from + (at - k) * (RAMP[k + 1][c] - from));
  };
  const heat = (a, found) => {
    const canvas = make("canvas", { class: "heat", width: a.width, height: a.height, role: "img" });
    const pen = canvas.getContext("2d"), image = pen.createImageData(a.width, a.height);
    found.change.forEach((d, i) => {
      const [r, g, b] = colour(d / found.most);
      image.data.set([r, g, b, 255], 4 * i);
    });
    pen.putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `Where the pair differs; the largest change is ${found.most} of 255`);
    return canvas;
  };

  // Where a concept may act: COCO's run lengths, down the columns, as a red veil with an outline.
  const veil = ({ size: [height, width], counts }) => {
    const inside = new Uint8Array(height * width);
    let at = 0;
    counts.forEach((count, k) => { if (k % 2) inside.fill(1, at, at + count); at += count; });
    const canvas = make("canvas", { class: "region", width, height, role: "img", "aria-label": "Where the concept may act" });
    const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
    const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[x * height + y];
    for (let x = 0; x < width; x++) for (let y = 0; y < height; y++) {
      if (!is(x, y)) continue;
      const edge = !is(x - 1, y) || !is(x + 1, y) || !is(x, y - 1) || !is(x, y + 1);
      image.data.set([208, 31, 46, edge ? 255 : 70], 4 * (y * width + x));
    }
    pen.putImageData(image, 0, 0);
    return canvas;
  };
  const attention = (pair) => make("div", { class: "cam" },
    make("div", {}, shot("original", pair.maps[0], "Grad-CAM of the original"), shot("edited", pair.maps[1], "Grad-CAM of the edit")),
    make("span", { class: "small" }, `Grad-CAM of the same pair (${data.layer})`));

  const SMALL = 0.3; // share of the picture below which a change is magnified
  const crop = (a, found) => {
    if (!found.box) return null;
    const side = Math.round(Math.max(found.box.w, found.box.h, 8) * 1.2);
    if (side * side > SMALL * a.width * a.height) return null;
    const fit = (start, length, whole) => Math.max(0, Math.min(whole - side, Math.round(start + length / 2 - side / 2)));
    return { side, x: fit(found.box.x, found.box.w, a.width), y: fit(found.box.y, found.box.h, a.height) };
  };
  const magnified = (a, part, kind) => {
    const canvas = make("canvas", { width: 160, height: 160, role: "img", "aria-label": `${kind}: the part that changed, magnified`, class: kind });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(a.canvas, part.x, part.y, part.side, part.side, 0, 0, 160, 160);
    return canvas;
  };

  const compare = (label) => {
    const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `${label}: how much of the picture shows the original` });
    const box = make("div", { class: "compare" });
    slider.addEventListener("input", () => box.style.setProperty("--cut", slider.value + "%"));
    const show = (pair) => {
      const views = [shot("edited", pair.after, "edited: " + label, pair.badges[1]), shot("original", pair.before, "original: " + label, pair.badges[0])];
      views.flatMap((view) => all("img", view)).forEach(load);
      box.replaceChildren(...views, make("i", { class: "handle", "aria-hidden": "true" }), slider);
    };
    return { box, show };
  };

  // ---- the gallery of one question ------------------------------------------------------------------
  const tags = (pair) => {
    const said = [];
    if (pair.failed) said.push(make("span", { class: "tag warn" }, "edit failed"));
    if (pair.flipped) said.push(make("span", { class: "flip" }, "flipped"));
    if (pair.apart) said.push(make("span", { class: "tag" }, pair.apart));
    return said;
  };
  const off = (pair) => Math.abs(pair.strength - 1) + (pair.slid ? 1e6 : 0); // what counts comes first
  const usual = (series) => series.reduce((best, pair) => (off(pair) < off(best) ? pair : best));

  const build = (place) => {
    if (place.childElementCount) return;
    const { series, all: inRun } = data.galleries[place.dataset.gallery];
    const label = place.getAttribute("aria-label").replace("Pictures: ", "");
    const { box, show } = compare(label);
    const side = make("div", { class: "aside", "aria-live": "polite" });
    const strengths = make("label", { class: "strength" });
    const map = make("button", { type: "button", "aria-pressed": "false" }, "Show the difference");
    const area = make("button", { type: "button", "aria-pressed": "false" }, "Show where it may act");
    const list = make("ul", { class: "pairs few" });
    const on = (button) => button.getAttribute("aria-pressed") === "true";
    let pair, turn = 0;

    const look = async () => {
      const mine = ++turn;
      show(pair);
      side.replaceChildren(
        make("p", {}, make("b", { class: pair.up ? "up" : "down" }, pair.change), " log-odds, ", `${pair.badges[0]} → ${pair.badges[1]} `, ...tags(pair)),
        ...pair.told.map((text) => make("p", { class: "small" }, text)));
      if (pair.maps) { side.append(attention(pair)); all(".cam img", side).forEach(load); }
      area.hidden = pair.region === undefined;
      if (!area.hidden && on(area)) box.insertBefore(veil(data.regions[pair.region]), box.querySelector(".handle"));
      const [a, b] = await Promise.all([pixels(pair.before), pixels(pair.after)]);
      if (mine !== turn) return;
      const found = difference(a, b), part = crop(a, found);
      if (on(map)) box.insertBefore(heat(a, found), box.querySelector(".handle"));
      if (!part) return;
      const mark = make("i", { class: "part", "aria-hidden": "true" });
      mark.style.cssText = `left:${100 * part.x / a.width}%;top:${100 * part.y / a.height}%;width:${100 * part.side / a.width}%;height:${100 * part.side / a.height}%`;
      box.insertBefore(mark, box.querySelector(".handle"));
      const views = make("div", {}, magnified(a, part, "original"), magnified(b, part, "edited"));
      side.prepend(make("div", { class: "inset" }, views, make("span", { class: "small" }, "the part that changed, magnified")));
    };
    const choose = (chosen, button) => {
      all("button", list).forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      pair = usual(chosen);
      strengths.hidden = chosen.length < 2;
      if (chosen.length > 1) {
        const value = make("output", {}, String(pair.strength));
        const slide = make("input", { type: "range", min: 0, max: chosen.length - 1, step: 1, value: chosen.indexOf(pair), "aria-label": "strength of the edit" });
        slide.addEventListener("input", () => { pair = chosen[Number(slide.value)]; value.textContent = String(pair.strength); look(); });
        strengths.replaceChildren("strength ", slide, value);
      }
      look();
    };
    series.forEach((one, k) => {
      const first = usual(one);
      const button = make("button", { type: "button", "aria-pressed": "false", "aria-label": `picture ${k + 1}: ${first.told[0]}, ${first.change}${first.failed ? ", edit failed" : ""}` },
        make("span", { class: "both" }, shot("original", first.before, "", first.badges[0]), shot("edited", first.after, "", first.badges[1])),
        make("span", { class: "caption" }, make("b", { class: first.up ? "up" : "down" }, first.change), " ", ...tags(first)));
      button.addEventListener("click", () => choose(one, button));
      const item = make("li", {}, button);
      if (first.failed) item.dataset.failed = "";
      if (first.flipped) item.dataset.flipped = "";
      list.append(item);
    });
    [map, area].forEach((button) => button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!on(button)));
      look();
    }));
    place.append(make("div", { class: "stage" },
      make("div", {}, box, make("p", { class: "controls" }, map, area, strengths)),
      make("div", {}, side, chips(list, series, inRun), list)));
    choose(series[0], list.querySelector("button"));
    watch(list);
  };

  const chips = (list, series, inRun) => {
    const items = all("li", list);
    const kinds = [["all", items], ["failed", items.filter((i) => "failed" in i.dataset)], ["flipped", items.filter((i) => "flipped" in i.dataset)]];
    const row = make("p", { class: "chips" });
    kinds.filter(([, held], k) => !k || (held.length && held.length < items.length)).forEach(([name, held], k) => {
      const text = k || items.length === inRun ? `${name} (${held.length})` : `${held.length} of ${inRun}`;
      const chip = make("button", { type: "button", "aria-pressed": String(!k) }, text);
      chip.addEventListener("click", () => {
        all("button", row).forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
        items.forEach((item) => { item.hidden = !held.includes(item); });
      });
      row.append(chip);
    });
    return row;
  };

  // Built when its concept is opened: five hundred concepts cost nothing until one looks at them.
  const open = (node) => all(":scope > .detail > .gallery", node).forEach(build);
  all("#tree details").forEach((node) => {
    node.addEventListener("toggle", () => { if (node.open) open(node); });
    if (node.open) open(node);
  });
  window.addEventListener("beforeprint", () => {
    all("#tree details[open]").forEach(open);
    all("img[data-picture]").forEach(load);
  });

  // ---- citations, expand, collapse ------------------------------------------------------------------
  const reveal = () => {
    const row = by(location.hash.slice(1));
    if (!row) return;
    if (row.closest("#tree") && !row.offsetParent && tools) { tools.reset(); sift(); }
    for (let up = row.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
    row.scrollIntoView({ block: "center" });
  };
  all('a[href^="#row-"]').forEach((link) => link.addEventListener("click", () => {
    if (link.hash === location.hash) reveal();
  }));

  // Expand: the groups first; once all of them are open, the pairs as well.
  const nodes = (which) => all("#tree details" + which);
  if (by("expand")) by("expand").addEventListener("click", () => {
    const closed = nodes(".group:not([open])");
    (closed.length ? closed : nodes(":not([open])")).forEach((node) => { node.open = true; });
  });
  if (by("collapse")) by("collapse").addEventListener("click", () => nodes("[open]").forEach((node) => { node.open = false; }));

  // ---- search, filter, sort -------------------------------------------------------------------------
  const tools = by("tools");
  const items = all("#tree li[data-path]");
  const own = new Map(items.map((item) => [item, all(":scope > .row .line[id], :scope > details > summary .line[id]", item)]));
  const sift = () => {
    const words = by("search").value.toLowerCase().split(/\s+/).filter(Boolean), wanted = by("filter").value;
    const fits = (line) => !wanted || line.dataset.state === wanted || (wanted === "failed" && "failed" in line.dataset);
    const sought = words.length || wanted;
    let count = 0;
    for (const item of [...items].reverse()) { // children before parents
      const named = words.every((word) => item.dataset.path.includes(word));
      const lines = own.get(item).filter((line) => { line.hidden = Boolean(sought) && !(named && fits(line)); return !line.hidden; });
      const below = all(":scope > details > ul > li", item).filter((child) => !child.hidden);
      count += lines.length;
      item.hidden = Boolean(sought) && !lines.length && !below.length && !(named && !wanted);
      const details = item.querySelector(":scope > details.group");
      if (sought && details && below.length) details.open = true;
    }
    by("matches").textContent = sought ? `${count} of ${all("#tree .line[id]").length} questions` : "";
  };
  const KEYS = {
    size: [(d) => -Math.abs(d.effect)], up: [(d) => -d.effect], down: [(d) => Number(d.effect)],
    q: [(d) => Number(d.q)], success: [(d) => Number(d.success)], name: [],
  };
  const first = items.map((item, k) => [item, k]);
  const order = () => {
    const [key] = KEYS[by("sort").value];
    const place = new Map(first);
    const best = (item) => Math.min(Infinity, ...all(".line[data-effect]", item).map((line) => key(line.dataset)).filter((x) => x === x));
    const rank = new Map(items.map((item) => [item, key ? best(item) : 0]));
    all("#tree ul.roots, #tree li > details > ul").forEach((list) => {
      const sorted = Array.from(list.children).sort((a, b) => (key ? (rank.get(a) - rank.get(b) || 0) || place.get(a) - place.get(b) : a.dataset.path.localeCompare(b.dataset.path)));
      list.append(...sorted);
    });
  };
  if (tools) {
    tools.hidden = false;
    tools.addEventListener("submit", (event) => event.preventDefault());
    by("search").addEventListener("input", sift);
    by("filter").addEventListener("change", sift);
    by("sort").addEventListener("change", order);
  }

  window.addEventListener("hashchange", reveal);
  if (location.hash) reveal();
})();
