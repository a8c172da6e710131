"use strict";

// Light and dark: as the system has it, until the button chooses.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // Without storage, the choice lasts as long as the page.
  }
});

// Tables: a click on a column's title sorts, a second one reverses. Empty cells stay last.
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const title = button.closest("th");
    const body = title.closest("table").tBodies[0];
    const column = title.cellIndex;
    const descending = title.getAttribute("aria-sort") === "ascending";
    for (const other of title.parentNode.children) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.sort ?? cell.textContent.trim();
    };
    const compare = (first, second) => {
      if (first === "" || second === "") return (first === "") - (second === "");
      const difference = Number(first) - Number(second);
      const order = Number.isNaN(difference) ? first.localeCompare(second, "en", { numeric: true }) : difference;
      return descending ? -order : order;
    };
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort((first, second) => compare(first[0], second[0]));
    body.append(...rows.map(([, row]) => row));
  });
}

// The table of subjects: every word of the search must be in the row.
const search = document.getElementById("search");
search?.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of document.getElementById("subject-table").tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    count += !row.hidden;
  }
  document.getElementById("found").textContent = `${count} shown`;
});

// The template along its covariates: a slider for each.
for (const box of document.querySelectorAll(".conditional")) {
  const sliders = [...box.querySelectorAll("input[type=range]")];
  const show = () => {
    const at = sliders.map((slider) => slider.value).join(",");
    for (const frame of box.querySelectorAll(".frame")) frame.hidden = frame.dataset.at !== at;
    for (const slider of sliders) {
      const text = JSON.parse(slider.dataset.texts)[slider.value];
      slider.closest("label").querySelector("output").textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
  };
  for (const slider of sliders) slider.addEventListener("input", show);
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).innerText);
    button.textContent = "Copied";
  });
}
