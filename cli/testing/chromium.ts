/**
 * A headless Chromium with software WebGPU (SwiftShader), driven over the DevTools protocol: opens a page, collects what
 * goes wrong in it, evaluates expressions. Refuses to be a browser automation: only tests import this.
 */

/** Chromium on this machine: `CHROMIUM`, or the first of the usual names that answers; undefined where there is none. */
export async function findChromium(): Promise<string | undefined> {
  const named = Deno.env.get("CHROMIUM");
  for (const name of named ? [named] : ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]) {
    try {
      const { success } = await new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" })
        .output();
      if (success) return name;
    } catch {
      // not installed under this name
    }
  }
  return undefined;
}

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--remote-debugging-port=0",
  "--window-size=1100,1000",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-dev-shm-usage",
];

interface Message {
  readonly id?: number;
  readonly method?: string;
  // deno-lint-ignore no-explicit-any
  readonly params?: any;
  // deno-lint-ignore no-explicit-any
  readonly result?: any;
  readonly error?: { readonly message: string };
}

/** A running Chromium with one page. Dispose it to end the process and remove its profile. */
export class Chromium implements AsyncDisposable {
  /** Uncaught errors, and errors and warnings that the page or the browser logged. */
  readonly complaints: string[] = [];
  readonly #process: Deno.ChildProcess;
  readonly #profile: string;
  readonly #pending = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #loaded: (() => void)[] = [];
  #socket: WebSocket | undefined;
  #nextId = 1;

  private constructor(process: Deno.ChildProcess, profile: string) {
    this.#process = process;
    this.#profile = profile;
  }

  /** Starts it with an empty page. @throws Error when it does not come up */
  static async start(executable: string): Promise<Chromium> {
    const profile = await Deno.makeTempDir({ prefix: "lowrank-chromium-" });
    const args = [...FLAGS, `--user-data-dir=${profile}`, "about:blank"];
    const process = new Deno.Command(executable, { args, stdin: "null", stdout: "null", stderr: "piped" }).spawn();
    const chromium = new Chromium(process, profile);
    try {
      await chromium.#connect(await endpoint(process));
    } catch (error) {
      await chromium[Symbol.asyncDispose]();
      throw error;
    }
    return chromium;
  }

  async #connect(browser: string): Promise<void> {
    const { host } = new URL(browser);
    const targets = await (await fetch(`http://${host}/json/list`)).json() as Record<string, string>[];
    const socket = this.#socket = new WebSocket(targets.find(({ type }) => type === "page")!.webSocketDebuggerUrl);
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = () => this.#fail(new Error("Chromium closed the connection"));
    await new Promise<void>((resolve, reject) => {
      socket.onopen = () => resolve();
      socket.onerror = () => reject(new Error(`Cannot connect to Chromium at ${host}`));
    });
    for (const domain of ["Page", "Runtime", "Log"]) await this.#send(`${domain}.enable`);
  }

  #receive({ id, method, params, result, error }: Message): void {
    if (id !== undefined) {
      const waiting = this.#pending.get(id);
      this.#pending.delete(id);
      if (error) waiting?.reject(new Error(error.message));
      else waiting?.resolve(result);
    } else if (method === "Page.loadEventFired") {
      for (const resolve of this.#loaded.splice(0)) resolve();
    } else if (method === "Runtime.exceptionThrown") {
      this.complaints.push(describe(params.exceptionDetails));
    } else if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) {
      this.complaints.push(`${params.entry.level}: ${params.entry.text} ${params.entry.url ?? ""}`);
    } else if (method === "Runtime.consoleAPICalled" && ["error", "warning"].includes(params.type)) {
      this.complaints.push(
        `console.${params.type}: ${params.args.map((arg: { value: unknown }) => arg.value).join(" ")}`,
      );
    }
  }

  #fail(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  // deno-lint-ignore no-explicit-any
  #send(method: string, params: Record<string, unknown> = {}): Promise<any> {
    const waiting = Promise.withResolvers<unknown>();
    const id = this.#nextId++;
    this.#pending.set(id, waiting);
    this.#socket!.send(JSON.stringify({ id, method, params }));
    return waiting.promise;
  }

  /** Opens a URL and waits until it has loaded. */
  async open(url: string): Promise<void> {
    const loaded = new Promise<void>((resolve) => this.#loaded.push(resolve));
    await this.#send("Page.navigate", { url });
    await loaded;
  }

  /** The value of an expression in the page, awaited. @throws Error when it throws there */
  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.#send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails) throw new Error(describe(exceptionDetails));
    return result.value;
  }

  /** The page as a PNG. */
  async screenshot(): Promise<Uint8Array> {
    const { data } = await this.#send("Page.captureScreenshot", { format: "png" });
    return Uint8Array.fromBase64(data);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket) {
      this.#socket.onclose = null;
      // its own way out also ends its helper processes
      if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send('{"id":0,"method":"Browser.close"}');
    }
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), 5_000);
    await this.#process.status;
    clearTimeout(timer);
    this.#socket?.close();
    await this.#removeProfile();
  }

  /** Helper processes may write into it for a moment longer. */
  async #removeProfile(): Promise<void> {
    for (let tries = 20; tries > 0; tries--) {
      try {
        return await Deno.remove(this.#profile, { recursive: true });
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }
}

function describe(details: { text: string; exception?: { description?: string } }): string {
  return details.exception?.description ?? details.text;
}

/** Reads stderr up to the line that names the DevTools endpoint, and drops what follows. */
async function endpoint(process: Deno.ChildProcess): Promise<string> {
  let text = "";
  const reader = process.stderr.pipeThrough(new TextDecoderStream()).getReader();
  while (true) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`Cannot start Chromium: ${text.slice(-500)}`);
    text += value;
    const [, url] = /DevTools listening on (ws:\/\/\S+)\s/.exec(text) ?? [];
    if (!url) continue;
    (async () => {
      while (!(await reader.read()).done);
    })();
    return url;
  }
}
