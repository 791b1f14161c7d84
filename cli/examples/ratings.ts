/**
 * Writes `ratings.csv`: what 60 people think of 45 films, of which three in ten are known. Behind it is a matrix of rank 3
 * around a mean of 3, without noise, from seed 7; values are rounded to two digits.
 *
 *     deno run cli/examples/ratings.ts
 */
import { foldIn, keyOf, normal, uniform } from "../../core/mod.ts";

const [PEOPLE, FILMS, RANK] = [60, 45, 3];
const key = foldIn(keyOf(7), "ratings");

/** The lines of the file. */
export function* ratings(): Generator<string> {
  const taste = normal(foldIn(key, "taste"), PEOPLE * RANK);
  const kind = normal(foldIn(key, "kind"), FILMS * RANK);
  const chance = uniform(foldIn(key, "known"), PEOPLE * FILMS);
  const place = (i: number) => String(i + 1).padStart(2, "0");
  yield "person,film,rating";
  for (let i = 0; i < PEOPLE; i++) {
    for (let j = 0; j < FILMS; j++) {
      if (chance[i * FILMS + j] >= 0.3) continue;
      let rating = 3;
      for (let k = 0; k < RANK; k++) rating += 0.6 * taste[i * RANK + k] * kind[j * RANK + k];
      yield `person ${place(i)},film ${place(j)},${rating.toFixed(2)}`;
    }
  }
}

if (import.meta.main) { for (const line of ratings()) console.log(line); }
