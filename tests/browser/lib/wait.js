// Waiting for conditions, never for a time.

/**
 * Asks again until the answer is truthy.
 * @template T
 * @param {string} what Named when it never comes.
 * @param {() => T | Promise<T>} ask
 * @param {number} [timeoutMs]
 * @returns {Promise<T>}
 */
export async function until(what, ask, timeoutMs = 15_000) {
  const deadline = Date.now() + timeoutMs;
  let last;
  for (;;) {
    try {
      const answer = await ask();
      if (answer) return answer;
      last = answer;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms (last: ${String(last)})`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
