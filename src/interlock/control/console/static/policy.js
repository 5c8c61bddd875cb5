// The Cedar editor: line numbers beside the text, and problems that lead to their place in it.
document.addEventListener("DOMContentLoaded", () => {
  const text = document.getElementById("cedar");
  const gutter = document.querySelector(".gutter");
  const number = () => {
    const lines = text.value.split("\n").length;
    gutter.textContent = Array.from({ length: lines }, (_, n) => n + 1).join("\n");
    gutter.scrollTop = text.scrollTop;
  };
  text.addEventListener("input", number);
  text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; });
  number();
  document.getElementById("problems").addEventListener("click", (event) => {
    const place = event.target.closest("[data-line]");
    if (!place) return;
    const before = text.value.split("\n").slice(0, place.dataset.line - 1);
    const at = before.reduce((sum, line) => sum + line.length + 1, 0) + Number(place.dataset.column) - 1;
    text.focus();
    text.setSelectionRange(at, Math.min(at + 1, text.value.length));
  });
});
