/** The page of the API: Swagger UI with the description of this server, and its API key. */

import { getJson, keyHeaders, reason, whenBack } from "../playground/api.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);

async function show() {
  const trouble = document.getElementById("trouble");
  trouble.hidden = true;
  try {
    const spec = await getJson("docs.json");
    SwaggerUIBundle({
      spec,
      domNode: document.getElementById("api"),
      deepLinking: true,
      displayRequestDuration: true,
      docExpansion: "list",
      defaultModelsExpandDepth: -1,
      tryItOutEnabled: true,
      validatorUrl: null, // a server of another host
      requestInterceptor: (request) => {
        request.headers = { ...keyHeaders(), ...request.headers };
        return request;
      },
    });
  } catch (error) {
    trouble.textContent = reason(error);
    trouble.hidden = !trouble.textContent;
  }
}

dark.onchange = follow;
follow();
whenBack(show);
show();
