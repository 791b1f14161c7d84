/**
 * A strict JSON reader for files that strangers wrote: safetensors headers and weight indexes.
 *
 * The caller drives it by the schema that it expects, so it builds no value that nobody asked for, never recurses, and
 * refuses at the first wrong character. Stricter than `JSON.parse`: duplicate keys at any level (which JSON.parse hides),
 * numbers that are not plain whole numbers, and unpaired surrogates are refused. Grammar: RFC 8259.
 */

const QUOTED_LENGTH = 80;

/** Foreign text for a message: quoted, on one line whatever it holds, and cut at 80 characters. */
export function quote(text: string): string {
  const cut = text.length > QUOTED_LENGTH ? `${text.slice(0, QUOTED_LENGTH)}...` : text;
  return JSON.stringify(cut).replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`,
  );
}

/** The error of an unreadable file: `Cannot read model.safetensors: <rule>: got ...`. */
export function unreadable(file: string, rule: string, got: string): SyntaxError {
  return new SyntaxError(`Cannot read ${file}: ${rule}: got ${got}`);
}

/**
 * Text of a file that must be UTF-8. A byte order mark is kept, so that it is refused as a wrong first character.
 *
 * @throws SyntaxError when the bytes are not UTF-8
 */
export function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw unreadable(file, "the text must be UTF-8", "other bytes");
  }
}

const SPACE = 0x20, QUOTE = 0x22, BACKSLASH = 0x5c;
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

/** A cursor over JSON text. Every method reads one thing at the cursor, or throws SyntaxError and names the place. */
export class JsonReader {
  #at = 0;

  /** @param file the name for messages */
  constructor(readonly text: string, readonly file: string) {}

  /** Throws SyntaxError for a rule that the caller checks. */
  refuse(rule: string, got: string): never {
    throw unreadable(this.file, rule, got);
  }

  /** Reads an object; `member` is called with each key, once, and must read that key's value. */
  object(what: string, member: (key: string) => void): void {
    this.#expect("{", what);
    const seen = new Set<string>();
    if (this.#skipped("}")) return;
    do {
      const key = this.string(`a key of ${what}`);
      if (seen.has(key)) this.refuse(`${what} must not repeat a key`, `${quote(key)} twice`);
      seen.add(key);
      this.#expect(":", `${what} after ${quote(key)}`);
      member(key);
    } while (this.#skipped(","));
    this.#expect("}", what);
  }

  /** Reads an array; `element` is called before each element with its index, and must read it. */
  array(what: string, element: (index: number) => void): void {
    this.#expect("[", what);
    if (this.#skipped("]")) return;
    let index = 0;
    do element(index++); while (this.#skipped(","));
    this.#expect("]", what);
  }

  /** Reads a string. */
  string(what: string): string {
    this.#expect('"', what);
    const { text } = this;
    let out = "";
    let from = this.#at;
    for (let at = from;; at++) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) {
        this.#at = at + 1;
        out += text.slice(from, at);
        if (!out.isWellFormed()) {
          this.refuse(`${what} must be valid Unicode`, `${quote(out)} with half a surrogate pair`);
        }
        return out;
      }
      if (code === BACKSLASH) {
        out += text.slice(from, at) + this.#escape(at, what);
        from = this.#at;
        at = from - 1;
      } else if (!(code >= SPACE)) { // also the NaN past the end
        this.#at = at;
        this.refuse(`${what} must be a closed string without control characters`, this.#here());
      }
    }
  }

  /** Reads a whole number from 0 to 2^53 - 1, written with digits alone: no sign, leading zero, fraction or exponent. */
  integer(what: string): number {
    const literal = this.#numberLiteral();
    const value = Number(literal);
    if (!/^(0|[1-9][0-9]{0,15})$/.test(literal) || !Number.isSafeInteger(value)) {
      this.refuse(`${what} must be a plain whole number up to 2^53 - 1`, literal ? quote(literal) : this.#here());
    }
    return value;
  }

  /** Reads over a string, number, boolean or null, the values that a file may carry without a meaning for us. */
  skipScalar(what: string): void {
    if (this.#peek() === QUOTE) return void this.string(what);
    for (const word of ["true", "false", "null"]) {
      if (this.text.startsWith(word, this.#at)) return void (this.#at += word.length);
    }
    const literal = this.#numberLiteral();
    if (!/^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$/.test(literal)) {
      this.refuse(`${what} must be a string, number, boolean or null`, literal ? quote(literal) : this.#here());
    }
  }

  /** Checks that nothing follows but characters of `allowed` (a sticky pattern that can match nothing). */
  end(allowed: RegExp, rule: string): void {
    allowed.lastIndex = this.#at;
    this.#at += allowed.exec(this.text)?.[0].length ?? 0;
    if (this.#at !== this.text.length) this.refuse(rule, this.#here());
  }

  #escape(at: number, what: string): string {
    const letter = this.text.charAt(at + 1);
    if (letter === "u") {
      const digits = this.text.slice(at + 2, at + 6);
      if (/^[0-9a-fA-F]{4}$/.test(digits)) {
        this.#at = at + 6;
        return String.fromCharCode(parseInt(digits, 16));
      }
    } else if (Object.hasOwn(ESCAPES, letter)) {
      this.#at = at + 2;
      return ESCAPES[letter];
    }
    this.#at = at;
    this.refuse(`${what} must hold only JSON's escapes`, this.#here());
  }

  #numberLiteral(): string {
    this.#peek();
    const pattern = /[-+.0-9a-zA-Z]*/y;
    pattern.lastIndex = this.#at;
    const literal = pattern.exec(this.text)![0];
    this.#at += literal.length;
    return literal;
  }

  #expect(char: string, what: string): void {
    if (!this.#skipped(char)) this.refuse(`expected ${char} of ${what}`, this.#here());
  }

  #skipped(char: string): boolean {
    if (this.#peek() !== char.charCodeAt(0)) return false;
    this.#at++;
    return true;
  }

  /** The next character that is not JSON's white space. */
  #peek(): number {
    for (;; this.#at++) {
      const code = this.text.charCodeAt(this.#at);
      if (code !== SPACE && code !== 0x0a && code !== 0x0d && code !== 0x09) return code;
    }
  }

  #here(): string {
    if (this.#at >= this.text.length) return "the end of the text";
    return `${quote(this.text.slice(this.#at, this.#at + 16))} at character ${this.#at}`;
  }
}
