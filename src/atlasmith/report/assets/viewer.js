"use strict";

// The viewers of a page. The volumes of all of them lie in the page (#views) or in shared.js, so that nothing is
// loaded. A viewer shows one volume of bytes, which is mixed here from the frames and the template, and one label map
// as NiiVue's drawing, whose outlines are one pixel wide.

const MAX_DRAWN = 255; // labels that the drawing tells apart
const SHARED = "@"; // before the name of a volume in shared.js
const viewers = [];

async function readVolume(data) {
  const base64 = data.startsWith(SHARED) ? atlasmith.volumes[data.slice(SHARED.length)] : data;
  return niivue.NVImage.loadFromBase64({ base64, name: "volume.nii.gz", cal_min: 0, cal_max: 255 });
}

// Decode a set of named volumes; each only once.
async function readAll(parts) {
  return Promise.all(parts.map(async (part) => ({ name: part.name, image: await readVolume(part.data) })));
}

class Viewer {
  constructor(figure, view) {
    this.figure = figure;
    this.view = view;
    this.canvas = figure.querySelector("canvas");
    this.pending = false;
  }

  control(role) {
    return this.figure.querySelector(`[data-role="${role}"]`);
  }

  value(role, fallback = 0) {
    const control = this.control(role);
    return control ? Number(control.value) : fallback;
  }

  async start() {
    this.nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.9, 0.9, 0.9, 0.55],
      crosshairWidth: 0.3,
      crosshairWidthUnit: "percent",
      fontColor: [0.75, 0.78, 0.82, 1],
      multiplanarPadPixels: 4,
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      dragAndDropEnabled: false,
      scrollRequiresFocus: true,
      logLevel: "error",
      loadingText: "",
    });
    await this.nv.attachToCanvas(this.canvas, true);
    this.channels = [];
    for (const channel of this.view.channels) {
      const frames = await readAll(channel.frames);
      const reference = channel.reference ? (await readVolume(channel.reference)).img : null;
      this.channels.push({ frames: frames.map((frame) => ({ name: frame.name, img: frame.image.img })), reference });
      this.shown ??= await readVolume(channel.frames[0].data);
    }
    this.labels = (await readAll(this.view.labels)).map((set) => set.image.img);
    this.nv.addVolume(this.shown);
    this.setPlane();
    this.nv.drawLut = { lut: drawColors(), labels: [] };
    this.nv.createEmptyDrawing();
    this.nv.onLocationChange = (location) => this.locate(location.vox);
    this.mix();
    this.nv.updateGLVolume();
    this.draw();
    this.moveTo(this.view.start);
    this.listen();
    this.figure.dataset.ready = "yes";
  }

  setPlane() {
    const types = { axial: 0, coronal: 1, sagittal: 2, all: 3 };
    this.nv.setSliceType(this.view.plane === "all" ? this.value("plane", types.all) : types[this.view.plane]);
  }

  // Mix the neighboring frames of the slider's position, and then the template.
  mix() {
    const { frames, reference } = this.channels[this.value("channel")];
    const place = Math.min(this.value("frame", 0), frames.length - 1);
    const first = Math.floor(place);
    const second = Math.min(first + 1, frames.length - 1);
    const share = place - first;
    const [a, b] = [frames[first].img, frames[second].img];
    const mixed = this.shown.img;
    const toReference = reference ? this.value("reference") : 0;
    for (let i = 0; i < mixed.length; i++) {
      const value = a[i] + share * (b[i] - a[i]);
      mixed[i] = toReference ? value + toReference * (reference[i] - value) : value;
    }
    const name = this.control("frame-name");
    if (name) name.textContent = share ? `between ${frames[first].name} and ${frames[second].name}` : frames[first].name;
  }

  // Draw the chosen labels; where they are compared with others, only what differs.
  draw() {
    const chosen = this.labels[Number(this.figure.querySelector('[data-role="labels"]:checked')?.value ?? -1)];
    const other = this.labels[this.value("compare", -1)];
    const drawing = this.nv.drawBitmap;
    for (let i = 0; i < drawing.length; i++) {
      const rank = chosen === undefined ? 0 : other === undefined || chosen[i] !== other[i] ? chosen[i] || (other?.[i] ?? 0) : 0;
      drawing[i] = rank && ((rank - 1) % MAX_DRAWN) + 1;
    }
    const opacity = this.value("opacity", 1);
    const outlined = this.control("outline")?.checked;
    this.nv.drawRimOpacity = outlined ? opacity : -1;
    this.nv.drawOpacity = outlined ? 0.001 : opacity;
    this.nv.refreshDrawing(true);
  }

  moveTo(position) {
    this.nv.scene.crosshairPos = position;
    this.nv.drawScene();
    this.locate(this.nv.frac2vox(position));
  }

  // Say what lies at the crosshair.
  locate(vox) {
    const [width, height] = [this.shown.dims[1], this.shown.dims[2]];
    const i = Math.round(vox[0]) + width * (Math.round(vox[1]) + height * Math.round(vox[2]));
    const found = this.labels.map((img, k) => `${this.view.labels[k].name}: ${atlasmith.names[img[i] - 1] ?? "background"}`);
    this.control("location").textContent = found.join(" · ") || "\u00a0";
  }

  // Redraw once for all events of a frame.
  later(redraw) {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      redraw();
    });
  }

  change(role) {
    if (role === "plane") this.setPlane();
    else if (["labels", "compare", "outline", "opacity"].includes(role)) this.later(() => this.draw());
    else
      this.later(() => {
        this.mix();
        this.nv.updateGLVolume();
      });
  }

  set(role, value) {
    const control = this.control(role);
    if (!control) return;
    control.value = value;
    this.change(role);
  }

  listen() {
    this.figure.addEventListener("input", (event) => this.change(event.target.dataset.role));
    const moves = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
    // In the capture phase, before NiiVue's own keys, none of which the page has use for.
    const onKey = (event) => {
      event.stopImmediatePropagation();
      if (event.type === "keyup" || event.ctrlKey || event.altKey || event.metaKey) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if (key in moves) this.nv.moveCrosshairInVox(...moves[key]);
      else if (/^[0-9]$/.test(key)) this.chooseLabels(Number(key) - 1);
      else if (key === "o") this.control("outline")?.click();
      else if (key === "b") this.set("frame", 0);
      else if (key === "a") this.set("frame", this.control("frame")?.max);
      else if (key === "t") this.set("reference", this.value("reference") > 0.5 ? 0 : 1);
      else return;
      event.preventDefault();
    };
    this.canvas.parentNode.addEventListener("keydown", onKey, true);
    this.canvas.parentNode.addEventListener("keyup", onKey, true);
  }

  chooseLabels(index) {
    this.figure.querySelector(`[data-role="labels"][value="${index}"]`)?.click();
  }
}

function drawColors() {
  const lut = new Uint8ClampedArray(4 * (MAX_DRAWN + 1));
  atlasmith.colors.forEach((color, k) => {
    if (k < MAX_DRAWN) lut.set([...color, 255], 4 * (k + 1));
  });
  return lut;
}

async function startViewers() {
  const views = JSON.parse(document.getElementById("views").textContent);
  for (const figure of document.querySelectorAll(".viewer")) {
    const viewer = new Viewer(figure, views[figure.dataset.view]);
    try {
      await viewer.start();
      viewers.push(viewer);
    } catch (error) {
      const screen = figure.querySelector(".screen");
      screen.className = "screen failed";
      screen.textContent = `The viewer can't draw here: ${error.message}. It needs a browser with WebGL 2.`;
    }
  }
  // A structure's name moves the crosshair of the first viewer into the structure.
  for (const button of document.querySelectorAll("[data-rank]")) {
    button.addEventListener("click", () => {
      const position = views.segmentation?.centers[button.dataset.rank];
      if (!position || !viewers.length) return;
      viewers[0].moveTo(position);
      viewers[0].figure.scrollIntoView({ block: "nearest" });
    });
  }
}

startViewers();
