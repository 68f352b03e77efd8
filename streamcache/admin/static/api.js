// Questions to the server that this page came from. Errors have its own sentence.

export class Refused extends Error {}

export const get = (path, query = {}) => ask("GET", path, query);
export const post = (path, body) => ask("POST", path, {}, body);
export const remove = (path) => ask("DELETE", path, {});

async function ask(method, path, query, body) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null);
  const parameters = new URLSearchParams(given);
  const url = given.length ? `${path}?${parameters}` : path;
  const options = { method, cache: "no-store" };
  if (method !== "GET") {
    options.headers = { "Content-Type": "application/json" };
    if (body !== undefined) options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Refused("The server does not answer.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}
