// Where pictures and sound come from. It knows devices and the test picture, and
// nothing of where they go.

// A MediaError has a message for the person in front of the page.
export class MediaError extends Error {}

function explain(e) {
  switch (e.name) {
    case 'NotAllowedError': return new MediaError('The browser was not allowed to use the camera, microphone or screen. Allow it in the address bar and try again.');
    case 'NotFoundError': return new MediaError('No camera or microphone was found. Connect one, or choose another source.');
    case 'NotReadableError': return new MediaError('The camera or microphone is in use by another program.');
    case 'OverconstrainedError': return new MediaError('The chosen device cannot deliver this. Choose another one.');
    default: return new MediaError('Camera or microphone cannot be used: ' + e.message);
  }
}

// capture returns { stream, mirror, stop } for { source, width, height, camera,
// microphone, music }; with only, 'video' or 'audio', that kind of track alone.
export async function capture(o) {
  if (o.source === 'canvas') return testPicture(o.width, o.height);
  if (!navigator.mediaDevices) throw new MediaError('Browsers give camera and microphone to https pages and to localhost only. Open this page by one of these.');
  if (o.source === 'none' && o.microphone === 'none') throw new MediaError('Neither picture nor sound is chosen.');
  const device = (id) => (id ? { deviceId: { exact: id } } : {});
  const sound = o.microphone === 'none' ? false : {
    channelCount: { ideal: 2 }, ...device(o.microphone),
    ...(o.music ? { echoCancellation: false, noiseSuppression: false, autoGainControl: false } : {}),
  };
  let stream = null;
  try {
    if (o.source === 'screen' && o.only !== 'audio') {
      stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: 30, width: { max: o.width }, height: { max: o.height } }, audio: !o.only });
      if (!o.only && !stream.getAudioTracks().length && sound) {
        const voice = await navigator.mediaDevices.getUserMedia({ audio: sound });
        stream.addTrack(voice.getAudioTracks()[0]);
      }
    } else {
      const picture = { width: { ideal: o.width }, height: { ideal: o.height }, frameRate: { ideal: 30 }, ...device(o.camera) };
      stream = await navigator.mediaDevices.getUserMedia({ video: o.source === 'camera' && o.only !== 'audio' && picture, audio: o.only !== 'video' && sound });
    }
  } catch (e) {
    if (stream) stream.getTracks().forEach((t) => t.stop());
    throw explain(e);
  }
  return { stream, mirror: o.source === 'camera', stop: () => stream.getTracks().forEach((t) => t.stop()) };
}

// devices lists what can be chosen: [{ kind, id, name }]; names come once one
// device was allowed.
export async function devices() {
  if (!navigator.mediaDevices) return [];
  const all = await navigator.mediaDevices.enumerateDevices();
  return all.filter((d) => d.deviceId && d.label).map((d) => ({ kind: d.kind, id: d.deviceId, name: d.label }));
}

// A Level measures how loud a stream is.
export class Level {
  constructor(stream) {
    this.audio = new AudioContext();
    for (const e of ['pointerdown', 'keydown']) addEventListener(e, () => this.audio.resume().catch(() => {}), { once: true });
    this.analyser = new AnalyserNode(this.audio, { fftSize: 2048 });
    this.audio.createMediaStreamSource(new MediaStream(stream.getAudioTracks())).connect(this.analyser);
    this.samples = new Float32Array(this.analyser.fftSize);
  }

  // read is from 0, -60 dB and less, to 1, the loudest there is.
  read() {
    this.analyser.getFloatTimeDomainData(this.samples);
    const peak = this.samples.reduce((p, s) => Math.max(p, Math.abs(s)), 0);
    return Math.min(1, Math.max(0, 1 + Math.log10(Math.max(peak, 1e-6)) / 3));
  }

  stop() { this.audio.close(); }
}

// testPicture draws a clock and moving bars and, once a second, flashes white and
// beeps at the same instant for 100 ms.
function testPicture(width, height) {
  const audio = new AudioContext({ sampleRate: 48000, latencyHint: 'interactive' });
  audio.resume();
  // Started by itself the browser holds the sound, and with it this clock, until somebody acts.
  for (const e of ['pointerdown', 'keydown']) addEventListener(e, () => audio.resume().catch(() => {}), { once: true });
  const out = audio.createMediaStreamDestination();
  out.channelCount = 2;
  // Left and right differ, so that mono is noticed.
  const gates = [1000, 1500].map((hz, channel) => {
    const tone = new OscillatorNode(audio, { frequency: hz });
    const gate = new GainNode(audio, { gain: 0 });
    const merger = new ChannelMergerNode(audio, { numberOfInputs: 2 });
    tone.connect(gate).connect(merger, 0, channel);
    merger.connect(out);
    tone.start();
    return gate.gain;
  });
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const g = canvas.getContext('2d', { alpha: false });
  const colours = ['#c0c0c0', '#c0c000', '#00c0c0', '#00c000', '#c000c0', '#c00000', '#0000c0'];
  const ON = 0.1;
  let scheduled = Math.ceil(audio.currentTime);
  const draw = () => {
    const now = audio.currentTime;
    // Beeps are put on the sound's own clock ahead of time, the flash follows it.
    while (scheduled < now + 1.5) {
      if (scheduled > now) {
        for (const gain of gates) {
          gain.setValueAtTime(0.4, scheduled);
          gain.setValueAtTime(0, scheduled + ON);
        }
      }
      scheduled++;
    }
    const flash = now >= 1 && now % 1 < ON;
    const shift = Math.floor(now * 60) % width;
    for (let i = 0; i < colours.length * 2; i++) {
      g.fillStyle = colours[i % colours.length];
      g.fillRect((i * width) / colours.length - shift, 0, width / colours.length + 1, height);
    }
    g.fillStyle = flash ? '#fff' : '#000';
    g.fillRect(width * 0.25, height * 0.25, width * 0.5, height * 0.5);
    g.fillStyle = flash ? '#000' : '#fff';
    g.font = '600 ' + Math.round(height / 10) + 'px monospace';
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.fillText(now.toFixed(2), width / 2, height / 2);
  };
  // Each picture that is drawn is taken at once: a stream that looks by itself
  // would see the flash up to one picture later.
  const s = canvas.captureStream(0);
  const [video] = s.getVideoTracks();
  const timer = setInterval(() => { draw(); video.requestFrame(); }, 1000 / 30);
  s.addTrack(out.stream.getAudioTracks()[0]);
  return {
    stream: s,
    stop: () => {
      clearInterval(timer);
      s.getTracks().forEach((t) => t.stop());
      audio.close();
    },
  };
}
