/**
 * Requests to the service. Paths are relative to the page, so they work under any prefix.
 *
 * While the server does not respond, a notice is shown and requests are repeated. If the server asks
 * for an API key, the user is asked for one. Callers whose request failed retry with `whenBack`.
 */

const WAIT_SECONDS = 20;
const AGAIN_SECONDS = 1;
const KEY = "fitserve-key";

const trouble = document.getElementById("trouble");
const keyForm = document.getElementById("key-form");
const listeners = [];
let away = false;

/** An unsuccessful response; `message` says what to change. `status` is 0 without a response. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The message to show for an error. A server that does not respond has its own notice. */
export const reason = (error) => (error.status === 0 ? "" : error.message);

/** Whether requests have an API key. */
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

/** The headers with the API key, if the user has given one. */
export const keyHeaders = () => (hasKey() ? { "X-API-Key": sessionStorage.getItem(KEY) } : {});

/** Call `listener` each time the server responds again after an outage. */
export function whenBack(listener) {
  listeners.push(listener);
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function getText(path) {
  return (await ask(path)).text();
}

/** The URL of a picture from the service. An `<img>` could not send the key. */
export async function getPicture(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

export async function postJson(path, content) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(content) })).json();
}

export function postBytes(path, body, headers) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/octet-stream", ...headers }, body });
}

export async function postForm(path, form) {
  return (await ask(path, { method: "POST", body: form })).json();
}

/**
 * Return a function that runs `task` with its newest argument, one run after the other, `pause`
 * milliseconds apart. Arguments in between are skipped, and responses stay in order.
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
  const headers = { ...options.headers, ...keyHeaders() };
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
    return ""; // perhaps from a proxy
  }
}

function lookForServer() {
  return waitUntil(
    async () => {
      const { status } = await fetch("readyz", { cache: "no-store" });
      return status !== 502 && status !== 503 && status !== 504;
    },
    "The server does not answer. What you drew is still here; it is asked again each second.",
  );
}

/** Show a notice while the server loads networks, and call the listeners when it has. */
export function waitForLoading() {
  return waitUntil(
    async () => !(await getJson("models")).loading.length,
    "The server is still loading networks; those that are missing here appear when it has.",
  );
}

async function waitUntil(isBack, text) {
  if (away) return;
  away = true;
  trouble.textContent = text;
  trouble.hidden = false;
  while (away) {
    await new Promise((resolve) => setTimeout(resolve, AGAIN_SECONDS * 1000));
    try {
      away = !(await isBack());
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
