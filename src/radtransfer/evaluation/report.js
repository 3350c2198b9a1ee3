// Sorting, filtering, enlarging. Works in a sandboxed frame: no storage, no network, no pop-ups; the page reads
// well without it.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// In a srcdoc frame a fragment would be taken as a link of the page around it.
for (const link of all('a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const section = document.getElementById(link.getAttribute("href").slice(1));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    section.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
    const heading = section.querySelector("h2");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  });
}

const links = new Map(all("nav a").map((link) => [link.getAttribute("href").slice(1), link]));
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-15% 0px -75% 0px" },
);
for (const id of links.keys()) watcher.observe(document.getElementById(id));

for (const table of all("table.sortable")) {
  const body = table.querySelector("tbody:not(.fixed)");
  const rows = all("tr", body); // as delivered: the third click returns to it
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    const printed = document.createElement("span"); // Chromium repeats no head that holds a button on later pages
    printed.className = "printed";
    printed.textContent = button.textContent;
    head.append(button, printed);
    const numeric = head.classList.contains("n");
    const value = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent;
      return cell.dataset.value === "" ? Number.NEGATIVE_INFINITY : Number(cell.dataset.value);
    };
    const first = numeric ? "descending" : "ascending";
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = !now ? first : now !== first ? "" : first === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (!next) return body.append(...rows);
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const sorted = [...rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        return sign * (numeric ? (x === y ? 0 : x - y) : x.localeCompare(y));
      });
      body.append(...sorted);
    });
  });
  const filter = table.closest("section").querySelector("fieldset.filter");
  const apply = () => {
    const source = filter.querySelector("input:checked").value;
    for (const row of rows) row.hidden = source !== "all" && row.dataset.source !== source;
    filter.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} models`;
  };
  filter.hidden = false;
  filter.addEventListener("change", apply);
  apply();
}

const toggle = document.getElementById("show-boxes");
const viewer = document.getElementById("viewer");
const boxes = viewer.querySelector("[data-boxes]");
const showBoxes = (shown) => {
  document.body.classList.toggle("no-boxes", !shown);
  boxes.setAttribute("aria-pressed", shown);
  toggle.checked = shown;
};
if (toggle) {
  toggle.closest(".filter").hidden = false;
  toggle.addEventListener("change", () => showBoxes(toggle.checked));
}

const pictures = all(".zoom");
let current = 0;
const show = (index) => {
  current = (index + pictures.length) % pictures.length;
  const { caption, method } = pictures[current].dataset;
  viewer.querySelector(".stage").replaceChildren(pictures[current].querySelector(".pic").cloneNode(true));
  viewer.querySelector("p").textContent = caption;
  const key = method && document.querySelector(`.colours [data-method="${method}"]`);
  viewer.querySelector(".key").replaceChildren(...(key ? key.cloneNode(true).children : []));
  boxes.hidden = !viewer.querySelector(".boxes");
};
pictures.forEach((button, index) => {
  button.addEventListener("click", () => {
    show(index);
    viewer.showModal();
  });
});
viewer.addEventListener("click", (event) => {
  const step = Number(event.target.dataset.step);
  if (step) show(current + step);
  else if ("boxes" in event.target.dataset) showBoxes(!toggle.checked);
  else if (event.target === viewer || "close" in event.target.dataset) viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(current + 1);
  if (event.key === "ArrowLeft") show(current - 1);
});
viewer.addEventListener("close", () => pictures[current].focus());

let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
