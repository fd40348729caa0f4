"use strict";
// The page's own viewer: NiiVue where the browser has WebGL2, plain canvas slices everywhere else.
// Maps are int8 (127 = full colour), on the same grid as the scan; the page brings every byte itself.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const state = { map: 0, threshold: data.threshold, opacity: data.opacity, labels: false, engine: "none" };
window.radiolucent = state;

function status(text) { at("status").textContent = text; }

function legend() {
  const map = data.maps[state.map];
  const bar = at("bar");
  const low = map.signed ? -1 : 0;
  const stops = data.colours.slice(map.signed ? 0 : 127).filter((_, i) => i % 4 === 0);
  bar.style.background = "linear-gradient(to right," + stops.map((c) => `rgb(${c.join(",")})`).join(",") + ")";
  at("low").textContent = map.signed ? "−" + map.scale : "0";
  at("high").textContent = "+" + map.scale;
  at("unit").textContent = map.unit + "; not drawn below " + Math.round(state.threshold * 100) + " %";
  bar.setAttribute("aria-label", `${low * map.scale} to ${map.scale} ${map.unit}`);
}

// --- NiiVue -------------------------------------------------------------------------------------
let nv = null;

async function startNiivue() {
  const { Niivue, NVImage, SLICE_TYPE, MULTIPLANAR_TYPE } = niivue;
  nv = new Niivue({
    dragAndDropEnabled: false, isResizeCanvas: true, show3Dcrosshair: true, backColor: [0, 0, 0, 1],
    isColorbar: false, loadingText: "", multiplanarForceRender: true, multiplanarLayout: MULTIPLANAR_TYPE.GRID, crosshairWidth: 0.4,
    crosshairColor: [0.9, 0.9, 0.9, 0.6], fontColor: [1, 0.85, 0.2, 1],
    isOrientationTextVisible: data.has_world,
    isRadiologicalConvention: data.has_world, // the patient's right is on the left
  });
  await nv.attachToCanvas(at("gl"));
  const ramp = (part) => ({
    R: part.map((c) => c[0]), G: part.map((c) => c[1]), B: part.map((c) => c[2]),
    A: part.map((_, i) => (i === 0 ? 0 : 255)), I: part.map((_, i) => Math.round((255 * i) / (part.length - 1))),
  });
  nv.addColormap("for", ramp(data.colours.slice(127)));
  nv.addColormap("against", ramp(data.colours.slice(0, 128).reverse()));
  nv.setSliceType(SLICE_TYPE.MULTIPLANAR);
  const scan = await NVImage.loadFromBase64({ base64: data.scan, name: "scan.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 });
  const loaded = new Map();
  let labels = null;
  if (data.labels) {
    labels = await NVImage.loadFromBase64({ base64: data.labels.image, name: "labels.nii.gz", opacity: 0 });
    labels.setColormapLabel(data.labels.table);
  }
  state.draw = async () => {
    const number = state.map;
    if (!loaded.has(number)) {
      loaded.set(number, await NVImage.loadFromBase64({
        base64: data.maps[number].image, name: `map${number}.nii.gz`, colormap: "for",
        colormapNegative: data.maps[number].signed ? "against" : "",
      }));
    }
    const map = loaded.get(number);
    const low = Math.max(127 * state.threshold, 1);
    map.cal_min = low; map.cal_max = 127; map.cal_minNeg = -low; map.cal_maxNeg = -127;
    map.opacity = state.opacity;
    if (labels) labels.opacity = state.labels ? 0.45 : 0;
    nv.volumes = labels ? [scan, map, labels] : [scan, map];
    nv.back = scan;
    nv.overlays = nv.volumes.slice(1);
    nv.updateGLVolume();
  };
  state.go = (map) => {
    nv.scene.crosshairPos = nv.mm2frac(map.peak_mm);
    nv.drawScene();
  };
  await state.draw();
  state.go(data.maps[0]);
  state.engine = "niivue";
}

// --- Canvas -------------------------------------------------------------------------------------
async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const view = new DataView(raw.buffer);
  const dims = [0, 1, 2].map((i) => view.getInt16(42 + 2 * i, true));
  const pixdim = [0, 1, 2].map((i) => view.getFloat32(80 + 4 * i, true));
  const offset = view.getFloat32(108, true);
  const type = view.getInt16(70, true); // 2 uint8, 256 int8, 8 int32
  const Kind = type === 256 ? Int8Array : type === 8 ? Int32Array : Uint8Array;
  return { dims, pixdim, values: new Kind(raw.buffer.slice(offset)) };
}

async function startCanvas() {
  const scan = await unpack(data.scan);
  const labels = data.labels ? await unpack(data.labels.image) : null;
  const maps = new Map();
  const flat = data.maps[0].peak.length === 2;
  const views = flat ? [[2, 1, 0]] : [[0, 1, 2], [1, 0, 2], [2, 0, 1]]; // cut, across, up
  const letters = ["RL", "PA", "IS"];
  const names = ["sagittal", "coronal", "axial"];
  const place = [...data.maps[0].peak];
  const stride = [1, scan.dims[0], scan.dims[0] * scan.dims[1]];
  const box = at("slices");
  const panels = views.map(([cut, across, up]) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.width = scan.dims[across]; canvas.height = scan.dims[up];
    const mm = [scan.dims[across] * scan.pixdim[across], scan.dims[up] * scan.pixdim[up]];
    canvas.style.aspectRatio = `${mm[0]} / ${mm[1]}`;
    const caption = document.createElement("figcaption");
    const slider = document.createElement("input");
    slider.type = "range"; slider.min = 0; slider.max = scan.dims[cut] - 1; slider.value = place[cut];
    slider.setAttribute("aria-label", `slice along axis ${cut}`);
    slider.addEventListener("input", () => { place[cut] = Number(slider.value); state.draw(); });
    figure.append(canvas, caption);
    if (!flat) figure.append(slider);
    box.append(figure);
    return { cut, across, up, canvas, caption, slider };
  });
  state.draw = async () => {
    if (!maps.has(state.map)) maps.set(state.map, await unpack(data.maps[state.map].image));
    const map = maps.get(state.map);
    for (const p of panels) {
      const [w, h] = [p.canvas.width, p.canvas.height];
      const image = new ImageData(w, h);
      for (let row = 0; row < h; row++) for (let column = 0; column < w; column++) {
        const along = data.has_world && !flat && p.across === 0 ? w - 1 - column : column; // radiological, as in NiiVue
        const v = (flat ? 0 : place[p.cut] * stride[p.cut]) + along * stride[p.across] + (flat ? row : h - 1 - row) * stride[p.up];
        const r = map.values[v], o = 4 * (row * w + column);
        const drawn = Math.abs(r) >= 127 * state.threshold && r !== 0 ? state.opacity : 0;
        const colour = data.colours[r + 127], grey = scan.values[v];
        for (let c = 0; c < 3; c++) image.data[o + c] = grey * (1 - drawn) + colour[c] * drawn;
        if (state.labels && labels && labels.values[v]) image.data[o + 2] = Math.min(255, image.data[o + 2] + 90);
        image.data[o + 3] = 255;
      }
      p.canvas.getContext("2d").putImageData(image, 0, 0);
      p.slider.value = place[p.cut];
      const [a, u] = [letters[p.across], letters[p.up]];
      p.caption.textContent = flat ? "" : data.has_world
        ? `${names[p.cut]} ${place[p.cut]}: ${a[0]} left, ${a[1]} right; ${u[0]} bottom, ${u[1]} top`
        : `axis ${p.cut}, slice ${place[p.cut]}`;
    }
  };
  state.go = (map) => { for (let i = 0; i < 3; i++) place[i] = map.peak[i] ?? 0; state.draw(); };
  await state.draw();
  state.engine = "canvas";
}

// --- Controls -----------------------------------------------------------------------------------
function wire() {
  const choose = at("map");
  data.maps.forEach((map, number) => choose.append(new Option(map.name, number)));
  choose.addEventListener("change", async () => {
    state.map = Number(choose.value); legend(); await state.draw(); state.go(data.maps[state.map]);
  });
  for (const name of ["threshold", "opacity"]) {
    at(name).value = state[name] * 100;
    at(name).addEventListener("input", () => { state[name] = at(name).value / 100; legend(); state.draw(); });
  }
  if (data.labels) at("labels").addEventListener("change", () => { state.labels = at("labels").checked; state.draw(); });
  legend();
}

async function start() {
  wire();
  const webgl = !!document.createElement("canvas").getContext("webgl2");
  const plain = data.maps[0].peak.length === 2 || !webgl || location.hash === "#plain";
  try {
    if (plain) throw new Error(webgl ? "" : "This browser has no WebGL2");
    await startNiivue();
    at("slices").hidden = true;
    status("Scroll moves through slices, drag in the 3D view turns it.");
  } catch (error) {
    at("stage").hidden = true;
    await startCanvas();
    status(error.message ? `${error.message}: plain slices instead of the 3D view.` : "");
  }
  document.body.dataset.ready = state.engine;
}

start().catch((error) => { status(`The viewer could not start (${error.message}); the pictures below show the same maps.`); });
