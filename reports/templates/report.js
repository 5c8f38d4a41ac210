"use strict";
for (const figure of document.querySelectorAll("[data-figure]")) {
  const svg = figure.querySelector("svg");
  const tip = figure.querySelector(".tip");
  const cross = svg.querySelector(".crosshair");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const width = svg.viewBox.baseVal.width;

  const row = (name, value, colour) => {
    const line = document.createElement("span");
    const left = document.createElement("em");
    left.style.fontStyle = "normal";
    if (colour) {
      const key = document.createElement("i");
      key.className = "key";
      key.style.background = colour;
      left.append(key);
    }
    left.append(name);
    line.append(left, value);
    return line;
  };

  const fill = (column) => {
    const [, , seconds, what, place, peak, reserved, held, up, down, host] = column;
    const title = document.createElement("b");
    title.textContent = what || "between components";
    const rows = [title, row(place, seconds), row("allocated, at most", peak), row("reserved", reserved)];
    held.forEach((size, index) => {
      if (size) rows.push(row(data.components[index][0], size, data.components[index][1]));
    });
    if (up) rows.push(row("to the GPU", up));
    if (down) rows.push(row("to the CPU", down));
    if (host) rows.push(row("host memory", host));
    tip.replaceChildren(...rows);
  };

  const find = (position) => {
    let low = 0;
    let high = data.columns.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data.columns[middle][1] < position) low = middle + 1;
      else high = middle;
    }
    return data.columns[low];
  };

  const hide = () => {
    tip.hidden = true;
    cross.setAttribute("visibility", "hidden");
  };

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const position = (share - data.left) / (data.right - data.left);
    if (position < 0 || position > 1) return hide();
    fill(find(position));
    tip.hidden = false;
    cross.setAttribute("visibility", "visible");
    cross.setAttribute("x1", share * width);
    cross.setAttribute("x2", share * width);
    const outer = figure.getBoundingClientRect();
    const x = event.clientX - outer.left + figure.scrollLeft;
    const room = figure.scrollLeft + outer.width - x > tip.offsetWidth + 24;
    tip.style.left = `${room ? x + 16 : Math.max(4, x - tip.offsetWidth - 16)}px`;
    tip.style.top = `${Math.max(4, event.clientY - outer.top - tip.offsetHeight / 2)}px`;
  });
  svg.addEventListener("pointerleave", hide);
}
