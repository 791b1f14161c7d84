/** Conversations from JSONL, templates against Python's jinja2 (`testdata/chat_templates.json`), answers marked by token. */

import assert from "node:assert/strict";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { type ChatMessage, type ChatRecord, readChat } from "./chat.ts";
import { ChatTemplate, encodeChat, encodeChatPrompt, loadChatTemplate, PLAIN_CHAT_TEMPLATE } from "./chat_template.ts";
import { loadTokenizer } from "./load_tokenizer.ts";
import { withFolder } from "./testing/store_fixture.ts";
import { TINY_LLAMA, tinyRoberta } from "./testing/tokenizer_fixture.ts";
import type { Tokenizer } from "./tokenizer.ts";

interface Golden {
  readonly conversations: ChatMessage[][];
  readonly templates: { name: string; template: string; rendered: string[]; prompts: string[] }[];
}

const GOLDEN: Golden = JSON.parse(
  await Deno.readTextFile(new URL("./testdata/chat_templates.json", import.meta.url)),
);
const { templates: TEMPLATES, conversations: CONVERSATIONS } = GOLDEN;

async function readText(text: string): Promise<ChatRecord[]> {
  let records: ChatRecord[] = [];
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/chat.jsonl`, text);
    records = await readChat(`${folder}/chat.jsonl`);
  });
  return records;
}

/** The stretches of text that count, each as its tokens decode. */
function answersOf(tokenizer: Tokenizer, { ids, counted }: { ids: Int32Array; counted: Uint8Array }): string[] {
  const runs: number[][] = [];
  for (const [i, id] of ids.entries()) {
    if (counted[i] === 0) continue;
    if (i === 0 || counted[i - 1] === 0) runs.push([]);
    runs.at(-1)!.push(id);
  }
  return runs.map((run) => tokenizer.decode(run));
}

Deno.test("readChat() reads messages, prompts with completions, and lists of messages in both", async () => {
  const user = { role: "user", content: "a" };
  const assistant = { role: "assistant", content: "b" };
  const records = await readText(
    [
      { messages: [user, assistant], id: 7 },
      { prompt: "a", completion: "b" },
      { prompt: [user], completion: [assistant] },
    ].map((record) => JSON.stringify(record)).join("\n\n"),
  );
  assert.deepEqual(records, [1, 3, 5].map((line) => ({ messages: [user, assistant], line })));
});

const GOOD = '{"prompt":"a","completion":"b"}\n';
for (
  const [condition, text, error] of [
    [
      "a completion is missing",
      `${GOOD}{"prompt":"a"}`,
      /^SyntaxError: .*line 2 has no answer: it needs a "completion"$/,
    ],
    ["a completion is blank", `${GOOD}{"prompt":"a","completion":" \\n"}`, /line 2 has an empty answer$/],
    [
      "no message is the assistant's",
      `{"messages":[{"role":"user","content":"a"}]}`,
      /line 1 has no answer: no message has the role "assistant"$/,
    ],
    ["there are no messages", `{"messages":[]}`, /line 1 has no answer/],
    ["an answer is empty", `{"messages":[{"role":"assistant","content":""}]}`, /line 1 has an empty answer$/],
    [
      "a record is of neither form",
      `{"text":"a"}`,
      /line 1 must have "messages", or "prompt" and "completion": its keys are "text"$/,
    ],
    [
      "content is a list of parts",
      `{"messages":[{"role":"user","content":[{"type":"text"}]}]}`,
      /line 1: message 1 must have a "role" and a "content", both text$/,
    ],
    ["a message is null", `{"messages":[null]}`, /message 1 must have/],
    ["a prompt is a number", `{"prompt":1,"completion":"b"}`, /line 1: "prompt" and "completion" must both be text/],
    ["a line is not JSON", `${GOOD}{`, /line 2 is not JSON/],
    ["the file is empty", "\n", /the file holds no conversations$/],
  ] as [string, string, RegExp][]
) {
  Deno.test(`readChat() throws when ${condition}`, async () => {
    await assert.rejects(readText(text), error);
  });
}

Deno.test("ChatTemplate renders as Python's jinja2 does, with and without a beginning for an answer", async () => {
  const tokenizer = await tinyRoberta();
  assert.equal(TEMPLATES.length, 3);
  for (const { name, template, rendered, prompts } of TEMPLATES) {
    const compiled = new ChatTemplate(template);
    for (const [i, messages] of CONVERSATIONS.entries()) {
      assert.equal(compiled.render(tokenizer, messages), rendered[i], name);
      assert.equal(compiled.render(tokenizer, messages.slice(0, -1), true), prompts[i], name);
    }
  }
});

/** What the answers of the second conversation are in each template: what is written up to the next message. */
const ANSWERS: Record<string, string[]> = {
  chatml: ["the answer<|im_end|>\n", "x\n\ny<|im_end|>\n"],
  brackets: [" the answer </s>", " x\n\ny </s>"],
  headers: ["the answer</s>", "x\n\ny</s>"],
};

Deno.test("encodeChat() gives the ids of the whole text, and counts the answers alone", async () => {
  const records = CONVERSATIONS.map((messages, i) => ({ messages, line: i + 1 }));
  for (const tokenizer of [await tinyRoberta(), await loadTokenizer(TINY_LLAMA)]) {
    for (const { name, template, rendered } of TEMPLATES) {
      const [, second] = encodeChat(tokenizer, new ChatTemplate(template), records);
      assert.deepEqual([...second.ids], [...tokenizer.encode(rendered[1])]);
      assert.equal(second.line, 2);
      // a word's first token holds the space before it, which LLaMA's decoder strips at the start
      const got = answersOf(tokenizer, second).map((answer) => answer.trim());
      assert.deepEqual(got, ANSWERS[name].map((answer) => answer.trim()), `${tokenizer.name} ${name}`);
    }
  }
});

Deno.test("encodeChat() gives a token astride the border to the answer", async () => {
  const tokenizer = await loadTokenizer(TINY_LLAMA);
  const template = new ChatTemplate(
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
  );
  const messages = [{ role: "user", content: "sea " }, { role: "assistant", content: "the sea" }];
  const [encoded] = encodeChat(tokenizer, template, [{ messages, line: 1 }]);
  assert.deepEqual([...encoded.ids], [...tokenizer.encode("user: sea assistant: the sea")]);
  const [answer] = answersOf(tokenizer, encoded);
  assert.equal(answer.trim(), "the sea");
  // "▁the▁" holds the space that the prompt ends in
  const first = encoded.ids[encoded.counted.indexOf(1)];
  assert.ok(tokenizer.decode([encoded.ids[0], first]).endsWith(" the "));
});

Deno.test("encodeChat() ends messages with the byte tokenizer's end, which text cannot be", () => {
  const byte = byteTokenizer();
  const template = new ChatTemplate(PLAIN_CHAT_TEMPLATE);
  const messages = [{ role: "user", content: " a " }, { role: "assistant", content: "b" }];
  const [{ ids, counted }] = encodeChat(byte, template, [{ messages, line: 1 }]);
  const prompt = [...new TextEncoder().encode("user:\na"), 256, ...new TextEncoder().encode("assistant:\n")];
  assert.deepEqual([...ids], [...prompt, 98, 256]);
  assert.deepEqual([...counted], [...prompt.map(() => 0), 1, 1]);
  assert.deepEqual([...encodeChatPrompt(byte, template, messages.slice(0, 1))], prompt);
});

Deno.test("encodeChat() throws with the line when a template refuses, or does not begin as it goes on", async () => {
  const tokenizer = await tinyRoberta();
  const brackets = new ChatTemplate(TEMPLATES.find(({ name }) => name === "brackets")!.template);
  const twice = [{ role: "user", content: "a" }, { role: "user", content: "b" }, { role: "assistant", content: "c" }];
  const refused =
    /^SyntaxError: Cannot render .*roles must alternate user and assistant \(the conversation on line 9\)$/;
  assert.throws(() => encodeChat(tokenizer, brackets, [{ messages: twice, line: 9 }]), refused);
  const counts = new ChatTemplate("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}");
  const error = /^SyntaxError: Cannot mark answer 3: .*as it begins the whole \(the conversation on line 9\)$/;
  assert.throws(() => encodeChat(tokenizer, counts, [{ messages: twice, line: 9 }]), error);
  assert.throws(() => new ChatTemplate("{% for %}"), /^SyntaxError: Cannot read the chat template: /);
});

Deno.test("loadChatTemplate() finds a file of its own, the configuration's, or the default of several", async () => {
  await withFolder(async (folder) => {
    assert.equal(await loadChatTemplate(folder), undefined);
    const config = (value: unknown) => Deno.writeTextFile(`${folder}/tokenizer_config.json`, JSON.stringify(value));
    await config({ eos_token: "</s>" });
    assert.equal(await loadChatTemplate(folder), undefined);
    await config({ chat_template: [{ name: "tool_use", template: "t" }, { name: "default", template: "d" }] });
    assert.equal((await loadChatTemplate(folder))?.source, "d");
    await config({ chat_template: "c" });
    assert.equal((await loadChatTemplate(folder))?.source, "c");
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "j");
    assert.equal((await loadChatTemplate(folder))?.source, "j");
    await Deno.remove(`${folder}/chat_template.jinja`);
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, "{");
    await assert.rejects(loadChatTemplate(folder), /tokenizer_config.json": it is not JSON/);
  });
});
