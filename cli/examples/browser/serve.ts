/**
 * Serves the example's page to this machine alone: `deno task example:browser` bundles its script and runs this.
 */

const FOLDER = new URL("./", import.meta.url);

/** Answers with the page, and with `main.js` as bundled at `bundle`; everything else is not found. */
export function pageHandler(bundle: string | URL): (request: Request) => Promise<Response> {
  return async (request) => {
    switch (new URL(request.url).pathname) {
      case "/":
        return file(new URL("index.html", FOLDER), "text/html; charset=utf-8");
      case "/main.js":
        return file(bundle, "text/javascript; charset=utf-8");
      default:
        return await Promise.resolve(new Response("not found\n", { status: 404 }));
    }
  };
}

async function file(path: string | URL, type: string): Promise<Response> {
  return new Response(await Deno.readFile(path), { headers: { "content-type": type, "cache-control": "no-store" } });
}

if (import.meta.main) {
  const onListen = ({ port }: Deno.NetAddr) => console.log(`Train in the browser: http://127.0.0.1:${port}/`);
  Deno.serve({ hostname: "127.0.0.1", port: 8765, onListen }, pageHandler(Deno.args[0]));
}
