// Which branches are open is kept here; every change goes to the server, which sends the whole tree back.
const open = new Set();
const pathOf = (part) => part.closest("[data-path]").dataset.path;
// "at": what has a "path" is a file to Gradio.
const send = (what, path, text) => trigger("edit", { do: what, at: path, text });

const unfold = () => {
  for (const node of element.querySelectorAll("li[data-path]")) {
    const there = open.has(node.dataset.path);
    node.toggleAttribute("data-open", there);
    node.querySelector("[data-do=fold]").setAttribute("aria-expanded", there);
  }
};

const moved = (path, name) => {
  const to = [...path.split("/").slice(0, -1), name.trim()].join("/");
  for (const old of [...open]) {
    if (old === path || old.startsWith(path + "/")) {
      open.delete(old);
      open.add(to + old.slice(path.length));
    }
  }
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  const path = pathOf(button);
  if (button.dataset.do === "fold") {
    open.has(path) ? open.delete(path) : open.add(path);
    unfold();
    return;
  }
  if (button.dataset.do === "add") open.add(path);
  send(button.dataset.do, path, "");
});

element.addEventListener("change", (event) => {
  const field = event.target.closest("input[data-do]");
  if (!field) return;
  if (field.dataset.do === "rename") moved(pathOf(field), field.value);
  send(field.dataset.do, pathOf(field), field.value);
});

watch("value", unfold);
