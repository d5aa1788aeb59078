/**
 * Asks the service. Paths are relative to the page, so that it works under any prefix.
 *
 * A server that does not answer is asked again until it does, under a notice that says so; one that
 * wants a key gets the one that is typed in. Whoever asked in vain listens with `whenBack`.
 */

const WAIT_SECONDS = 20;
const AGAIN_SECONDS = 1;
const KEY = "fitserve-key";

const trouble = document.getElementById("trouble");
const keyForm = document.getElementById("key-form");
const listeners = [];
let away = false;

/** An answer that is no success; `message` says what to change. `status` is 0 where none came. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** What to tell of an error where it happened. A server that is away has its own notice. */
export const reason = (error) => (error.status === 0 ? "" : error.message);

/** Whether requests bring an API key. */
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

/** Call `listener` each time the server can be asked again after it could not. */
export function whenBack(listener) {
  listeners.push(listener);
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function getText(path) {
  return (await ask(path)).text();
}

/** The address of a picture of the service's. An `<img>` could not send the key. */
export async function getPicture(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

export async function postJson(path, content) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(content) })).json();
}

export async function postForm(path, form) {
  return (await ask(path, { method: "POST", body: form })).json();
}

/**
 * A function that runs `task` with its newest argument, one run after the other, `pause`
 * milliseconds apart: what was asked for in between is left out, and no late answer comes after a
 * newer one.
 */
export function newest(task, pause = 0) {
  let waiting = null;
  let running = false;
  return async function run(argument) {
    waiting = { argument };
    if (running) return;
    running = true;
    try {
      while (waiting) {
        const { argument: next } = waiting;
        waiting = null;
        await task(next);
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    } finally {
      running = false;
    }
  };
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { ...options.headers, "X-API-Key": key } : options.headers;
  let response;
  try {
    const signal = AbortSignal.timeout(WAIT_SECONDS * 1000);
    response = await fetch(path, { ...options, headers, signal });
  } catch {
    lookForServer();
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  if (response.status === 401) askForKey();
  const said = await response.text();
  throw new ApiError(response.status, errorIn(said) || `The server answered ${response.status}.`);
}

function errorIn(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return ""; // from a proxy between, perhaps
  }
}

async function lookForServer() {
  if (away) return;
  away = true;
  trouble.textContent =
    "The server does not answer. What you drew is still here; it is asked again each second.";
  trouble.hidden = false;
  while (away) {
    await new Promise((resolve) => setTimeout(resolve, AGAIN_SECONDS * 1000));
    try {
      const { status } = await fetch("readyz", { cache: "no-store" });
      away = status === 502 || status === 503 || status === 504;
    } catch {
      continue;
    }
  }
  trouble.hidden = true;
  for (const listener of listeners) listener();
}

function askForKey() {
  if (!keyForm.hidden) return;
  keyForm.hidden = false;
  keyForm.key.value = "";
  keyForm.onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, keyForm.key.value);
    keyForm.hidden = true;
    for (const listener of listeners) listener();
  };
}
