"use strict";
(() => {
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

  // Each picture stands in the page once; an <img> takes it when it comes near the screen.
  const load = (img) => {
    if (!img.hasAttribute("src")) img.src = pictures[Number(img.dataset.picture)];
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { load(entry.target); near.unobserve(entry.target); }
    }
  }, { rootMargin: "600px" });
  all("img[data-picture]").forEach((img) => near.observe(img));
  window.addEventListener("beforeprint", () => all("img[data-picture]").forEach(load));

  // A citation opens the tree down to its row.
  const reveal = () => {
    const row = document.getElementById(location.hash.slice(1));
    if (!row) return;
    for (let up = row.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
    row.scrollIntoView({ block: "center" });
  };
  window.addEventListener("hashchange", reveal);
  if (location.hash) reveal();
  all('a[href^="#row-"]').forEach((link) => link.addEventListener("click", () => {
    if (link.hash === location.hash) reveal();
  }));

  // Expand: the groups first; once all of them are open, the pairs as well.
  const nodes = (which) => all("#tree details" + which);
  const expand = document.getElementById("expand");
  const collapse = document.getElementById("collapse");
  if (expand) expand.addEventListener("click", () => {
    const closed = nodes(".group:not([open])");
    (closed.length ? closed : nodes(":not([open])")).forEach((node) => { node.open = true; });
  });
  if (collapse) collapse.addEventListener("click", () => nodes("[open]").forEach((node) => { node.open = false; }));
})();
