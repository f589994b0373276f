// Pictures on a canvas: the live picture with its regions, and a still frame to draw on.

import * as api from "./api.js";

const EVERY_MS = 170; // between two live pictures: about six a second. Less if many pages are open
const RETRY_MS = 1500; // after a failure
const PREVIEW_MS = 500; // between two frames of the preview
const PREVIEW_WIDTH = 480; // pixels
const TRIES = 4; // until the picture of the newest result must be there; some results have none

/** Draws the regions of a result, numbered. Black beside white is seen on every background. */
export function drawRegions(canvas, result) {
  if (!result?.frame_wh) return;
  const context = canvas.getContext("2d");
  const scale = canvas.width / result.frame_wh[0];
  const unit = Math.max(1, canvas.width / 640);
  result.regions.forEach(({ bbox_xywh: [x, y, width, height] }, place) => {
    const box = [x * scale, y * scale, width * scale, height * scale];
    for (const [colour, line] of [
      ["#000", 5],
      ["#fff", 2.5],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = line * unit;
      context.strokeRect(...box);
    }
    const size = 18 * unit;
    const top = Math.max(0, box[1] - size);
    context.fillStyle = "#000";
    context.fillRect(box[0] - 2 * unit, top, size, size);
    context.fillStyle = "#fff";
    context.font = `bold ${14 * unit}px sans-serif`;
    context.fillText(String(place + 1), box[0] + 2 * unit, top + 14 * unit);
  });
}

/** Puts a bitmap on a canvas of its size. */
export function paint(canvas, bitmap) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

/** Shows what the camera sees, inspected or not. Returns a function that ends it. `onError(error)`: null if all is well. */
export function watchFrames(canvas, camera, onError) {
  let isStopped = false;
  const run = async () => {
    while (!isStopped) {
      if (!document.hidden) {
        try {
          const { bitmap } = await api.frame(camera, PREVIEW_WIDTH);
          paint(canvas, bitmap);
          onError(null);
        } catch (error) {
          onError(error);
        }
      }
      await new Promise((resolve) => setTimeout(resolve, PREVIEW_MS));
    }
  };
  run();
  return () => (isStopped = true);
}

/** Fetches the live picture of a camera again and again: one request at a time, and only if there is something new. */
export class LivePicture {
  #canvas;
  #wanted;
  #onPicture;
  #stopped = new AbortController();
  #shown = null; // what was asked for last
  #tries = 0; // to get the picture of the newest result
  #redraw = null; // draws the present picture again
  #wake = null; // ends the wait for something new

  /**
   * `wanted()`: `{camera, overlay, width, newest}` with the newest result's id or null, or null for none. A picture is
   * fetched when it changes.
   * `onPicture(id, error)`: a picture with this result's id was drawn, or why not.
   */
  constructor(canvas, wanted, onPicture) {
    this.#canvas = canvas;
    this.#wanted = wanted;
    this.#onPicture = onPicture;
    this.#run();
  }

  stop() {
    this.#stopped.abort();
  }

  /** Something may have changed: fetches the picture at once if it is time. */
  look() {
    this.#wake?.();
  }

  /** Draws the picture again, without fetching it. */
  redraw() {
    this.#redraw?.();
  }

  async #run() {
    const { signal } = this.#stopped;
    await new Promise(requestAnimationFrame); // the canvas has its place now
    while (!signal.aborted) {
      const startedMs = performance.now();
      const wanted = document.hidden ? null : this.#wanted();
      const key = wanted && JSON.stringify(wanted);
      if (!key || key === this.#shown) {
        await new Promise((resolve) => {
          this.#wake = resolve;
          setTimeout(resolve, EVERY_MS);
        });
        continue;
      }
      let pauseMs = RETRY_MS;
      try {
        const id = await this.#fetch(wanted, signal);
        pauseMs = Math.max(EVERY_MS, api.pauseMs(), 2 * (performance.now() - startedMs)); // gentle to a slow agent
        this.#tries += 1;
        if (wanted.newest === null || id === wanted.newest || this.#tries >= TRIES) {
          this.#shown = key;
          this.#tries = 0;
        }
      } catch (error) {
        if (!signal.aborted) this.#onPicture(null, error);
      }
      await new Promise((resolve) => setTimeout(resolve, Math.max(20, pauseMs - (performance.now() - startedMs))));
    }
  }

  async #fetch({ camera, overlay, width }, signal) {
    const { bitmap, id } = await api.livePicture(camera, { overlay, width, signal });
    if (signal.aborted) return null;
    await new Promise(requestAnimationFrame);
    this.#redraw = () => {
      paint(this.#canvas, bitmap);
      this.#onPicture(id, null);
    };
    this.#redraw();
    return id;
  }
}
