"use strict";
// Nothing here is needed to read the pages: the order of cards, and the arrow keys.
document.addEventListener("keydown", (event) => {
  const relation = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const link = relation && !event.altKey && !event.ctrlKey && !event.metaKey && document.querySelector(`a[rel=${relation}]`);
  if (link) link.click();
});
const cards = document.getElementById("cards");
if (cards) {
  const order = document.getElementById("order");
  const alive = document.getElementById("alive");
  const arrange = () => {
    const sign = order.value === "channel" ? 1 : -1;
    const sorted = [...cards.children].sort((a, b) => sign * (a.dataset[order.value] - b.dataset[order.value]));
    for (const card of sorted) {
      card.hidden = alive.checked && card.classList.contains("dead");
      cards.append(card);
    }
  };
  document.querySelector(".controls").hidden = false;
  order.addEventListener("change", arrange);
  alive.addEventListener("change", arrange);
  arrange();
}
