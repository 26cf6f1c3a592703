// The verdict at a threshold, by the rule of metrics/answers.py and in the words of discriminator/words.py, which the
// server sends along: so another threshold is told at once. A test holds the two to each other.
const ORDER = ["FAKE", "UNSURE", "REAL"];
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const two = (x) => String(Number(x.toPrecision(2)));

const answerAt = (p, point, undecided, words) => {
  if (undecided) return "UNSURE";
  if (p >= point.threshold) return "FAKE";
  return p < Math.min(point.threshold, point.unsure_low, words.even) ? "REAL" : "UNSURE";
};
const scoreAt = (p, point, words) => {
  if (p < point.unsure_low) return fill(words.scores.below, { low: two(point.unsure_low) });
  return p > words.most_sure ? fill(words.scores.above, { most: words.most_sure }) : p.toFixed(2);
};
const saysAt = (verdict, p, point, reason, words) => {
  if (verdict !== "FAKE") return fill(words.says[verdict], { reason });
  const share = point.fpr === null ? words.says.own
    : fill(words.says.measured, { percent: two(100 * point.fpr), photos: point.n_real });
  return fill(words.says.FAKE, { score: scoreAt(p, point, words), threshold: two(point.threshold), share });
};

// What the note says besides the reason, which `says` has told.
const beyond = ({ note, reason }) => !note || !reason || !note.includes(reason) ? note
  : note.replace(reason, () => "").split("; ").filter(Boolean).join("; ");

// A row of the server's results as it would read at `point`. Why nothing can be said of a photo, whatever its score, is
// told as its reason; the two other reasons come from the score alone.
const rowAt = (row, point, words) => {
  if (row.verdict === undefined) return row;
  const usual = Object.values(words.reasons), p = row.probability;
  const undecided = row.verdict === "UNSURE" && row.reason !== undefined && !usual.includes(row.reason);
  const verdict = answerAt(p, point, undecided, words), out = { ...row, verdict, headline: words.headlines[verdict] };
  delete out.reason;
  if (verdict === "UNSURE") out.reason = undecided ? row.reason : words.reasons[p >= words.even ? "high" : "low"];
  Object.assign(out, { threshold: point.threshold, unsure_low: point.unsure_low, false_alarm_rate: point.fpr,
    validation_reals: point.n_real, says: saysAt(verdict, p, point, out.reason, words) });
  if (row.frames) {
    out.frames = row.frames.map((one) => {
      if (!ORDER.includes(one.verdict) || one.probability === null || one.probability === undefined) return one;
      const there = answerAt(one.probability, point, false, words);
      return { ...one, verdict: there, headline: words.headlines[there], score: scoreAt(one.probability, point, words) };
    });
  }
  return out;
};
// The one answer for a photo.
const photoAt = (rows, words) => {
  const labels = rows.map((row) => row.verdict).filter((label) => ORDER.includes(label)), n = labels.length;
  if (n < 2) return { verdict: rows[0].verdict ?? null, headline: rows[0].headline, faces: n };
  const [fake, unsure, real] = ORDER.map((word) => labels.filter((label) => label === word).length);
  const { photo } = words, which = fill(photo.of, { k: fake || unsure, n });
  let verdict = "REAL", headline = fill(photo.real, { n });
  if (fake) [verdict, headline] = ["FAKE", fill(fake === 1 ? photo.looks : photo.look, { which })];
  else if (unsure) {
    verdict = "UNSURE";
    headline = fill(photo.unsure, { which }) + (real ? (real > 1 ? photo.others : photo.other) : "");
  }
  return { verdict, headline, faces: n, fake, unsure, real };
};
const worstFirst = (rows) => [...rows].sort((a, b) => {
  const rank = (row) => (ORDER.includes(row.verdict) ? ORDER.indexOf(row.verdict) : ORDER.length);
  return (rank(a) - rank(b)) || (b.probability ?? 0) - (a.probability ?? 0);
});
