import assert from "node:assert/strict";
import { type SignalSource, StopWatch } from "./signals.ts";

function fakeSource() {
  const listeners = new Map<Deno.Signal, () => void>();
  const source: SignalSource = {
    add: (signal, listener) => void listeners.set(signal, listener),
    remove: (signal, listener) => void (listeners.get(signal) === listener && listeners.delete(signal)),
  };
  return { listeners, source, send: (signal: Deno.Signal) => listeners.get(signal)?.() };
}

Deno.test("StopWatch sets a flag at the first signal and exits with 130 at the second", () => {
  const { source, send } = fakeSource();
  const codes: number[] = [];
  const told: Deno.Signal[] = [];
  using watch = new StopWatch({ source, exit: (code) => codes.push(code), onStop: (signal) => told.push(signal) });
  assert.equal(watch.stopRequested, false);
  send("SIGINT");
  assert.equal(watch.stopRequested, true);
  assert.equal(watch.signal, "SIGINT");
  assert.deepEqual(codes, []);
  send("SIGINT");
  assert.deepEqual([codes, told], [[130], ["SIGINT"]]);
});

Deno.test("StopWatch removes its listeners when disposed", () => {
  const { source, listeners } = fakeSource();
  {
    using _watch = new StopWatch({ source });
    assert.equal(listeners.size, 2);
  }
  assert.equal(listeners.size, 0);
});

Deno.test({
  name: "StopWatch hears a real SIGTERM when the process gets one",
  ignore: Deno.build.os === "windows",
  async fn() {
    using watch = new StopWatch({ exit: () => assert.fail("only one signal was sent") });
    Deno.kill(Deno.pid, "SIGTERM");
    for (let i = 0; i < 200 && !watch.stopRequested; i++) await new Promise((done) => setTimeout(done, 10));
    assert.equal(watch.signal, "SIGTERM");
  },
});
