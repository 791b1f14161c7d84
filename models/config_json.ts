/** Values of a Hugging Face `config.json` by key, checked. It refuses to know which keys a model has. */

/** A parsed `config.json`. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** A size. @throws SyntaxError for anything but a whole number from `from` */
export function wholeNumber(json: ConfigJson, key: string, from = 1): number {
  const value = json[key];
  if (!Number.isInteger(value) || (value as number) < from) throw wrong(json, key, `a whole number from ${from}`);
  return value as number;
}

/** A number in [0, below). @throws SyntaxError for anything else */
export function numberBelow(json: ConfigJson, key: string, below: number): number {
  const value = json[key];
  const isInside = typeof value === "number" && value >= 0 && value < below;
  if (!isInside) throw wrong(json, key, below === Infinity ? "a number from 0" : `a number in [0, ${below})`);
  return value;
}

/** What a key must be, and what it is. */
export function wrong(json: ConfigJson, key: string, what: string): SyntaxError {
  return new SyntaxError(`Cannot load config.json: ${key} must be ${what}, got ${JSON.stringify(json[key])}`);
}
