/** The page: its tabs; the fragment of the URL selects the one that is shown. */

import { getJson, waitForLoading, whenBack } from "./api.js";
import * as curves from "./curves.js";
import * as digits from "./digits.js";
import * as networks from "./networks.js";
import * as now from "./now.js";
import * as points from "./points.js";

/**
 * Each module has `start(panel)`, which is called once and may return `show()` and `hide()`, and
 * optionally `takes(card)`: whether the tab supports the network.
 */
const MODULES = { digits, curves, points, networks, now };
const tabs = [...document.querySelectorAll("[role=tab]")];
const started = {};
let shown = null;

function show(name, focus = false) {
  if (!(name in MODULES)) name = "digits";
  if (document.getElementById(`tab-${name}`).hidden) name = "networks";
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
  }
  if (name === shown) return;
  if (shown) {
    document.getElementById(shown).hidden = true;
    started[shown].hide?.();
  }
  const panel = document.getElementById(name);
  panel.hidden = false;
  shown = name;
  started[name] ??= MODULES[name].start(panel) ?? {};
  started[name].show?.();
}

function go(tab) {
  history.pushState(null, "", tab.hash); // setting the hash would scroll the header away
  showAddressed(true);
}

function showAddressed(focus = false) {
  show(location.hash.slice(1).split("/")[0], focus);
}

function step(event) {
  const offered = tabs.filter((tab) => !tab.hidden);
  const index = offered.indexOf(event.currentTarget);
  const steps = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: offered.length - 1, " ": index };
  if (!(event.key in steps)) return;
  event.preventDefault();
  go(offered[(steps[event.key] + offered.length) % offered.length]);
}

/** Hide the tabs without a served network. */
function offer(models) {
  for (const tab of tabs) {
    const { takes } = MODULES[tab.getAttribute("aria-controls")];
    tab.hidden = Boolean(takes) && !models.some(takes);
  }
  showAddressed();
}

async function greet() {
  try {
    const { models, loading } = await getJson("models");
    offer(models);
    if (loading.length) waitForLoading();
    const version = (await getJson("v2")).version;
    document.getElementById("serving").textContent =
      `Version ${version}, serving ${models.length} trained networks.`;
  } catch {
    // `api.js` shows a notice, and `whenBack` calls again.
  }
}

for (const tab of tabs) {
  tab.addEventListener("keydown", step);
  tab.addEventListener("click", (event) => {
    event.preventDefault();
    go(tab);
  });
}
addEventListener("popstate", () => showAddressed());
whenBack(greet);
greet();
showAddressed();
