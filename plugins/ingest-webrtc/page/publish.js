// The publish page: camera, screen or a test picture, sent by WHIP.
//
// Parameters of the address: ?source=camera|screen|canvas ?size=1280x720
// ?start=1 (press Start by itself); #token=... is the stream's token. Elements to hold on to:
// body[data-state] is idle, connecting, live, reconnecting, failed or ended;
// #start, #stop, #state, #error, #preview, #source, #size, #token, #stat*.
'use strict';

const $ = (id) => document.getElementById(id);
const stream = decodeURIComponent(location.pathname.replace(/^\/publish\//, ''));
const endpoint = '/whip/' + stream;
const query = new URLSearchParams(location.search);

// How often and how long a lost connection is tried again.
const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 8000;
const CONNECT_MS = 12000;
const DISCONNECTED_MS = 4000;

let token = new URLSearchParams(location.hash.slice(1)).get('token') || '';
let run = null; // the running publication

const texts = {
  idle: 'Ready', connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', failed: 'Not publishing', ended: 'Ended',
};

function show(state, error) {
  document.body.dataset.state = state;
  $('state').textContent = texts[state];
  $('error').hidden = !error;
  $('error').textContent = error || '';
  const busy = state === 'connecting' || state === 'live' || state === 'reconnecting';
  // The button of the moment takes the focus from what is switched off: for whoever
  // has no mouse.
  const [on, off] = busy ? [$('stop'), $('start')] : [$('start'), $('stop')];
  const focused = $('controls').contains(document.activeElement);
  on.disabled = false;
  if (focused) on.focus();
  off.disabled = true;
  for (const e of $('controls').querySelectorAll('select, input')) e.disabled = busy;
  if (!busy) $('stats').hidden = true;
}

// An error whose message is for the person in front of the page.
class Plain extends Error {
  constructor(message, { again = false, after = 0, token = false } = {}) {
    super(message);
    this.again = again; // trying again can help
    this.after = after; // not before so many seconds
    this.token = token; // another token can help
  }
}

function mediaError(e) {
  switch (e.name) {
    case 'NotAllowedError': return new Plain('The browser was not allowed to use the camera or microphone. Allow it in the address bar and press Start again.');
    case 'NotFoundError': return new Plain('No camera or microphone was found. Connect one, or choose the test picture.');
    case 'NotReadableError': return new Plain('The camera or microphone is in use by another program.');
    case 'OverconstrainedError': return new Plain('The chosen device cannot deliver this. Choose another one.');
    default: return new Plain('Camera or microphone cannot be used: ' + e.message);
  }
}

function size() {
  const [width, height] = $('size').value.split('x').map(Number);
  return { width, height };
}

async function capture() {
  const { width, height } = size();
  const source = $('source').value;
  if (source === 'canvas') return testPicture(width, height);
  if (!navigator.mediaDevices) throw new Plain('Browsers give camera and microphone to https pages and to localhost only. Open this page by one of these.');
  try {
    if (source === 'screen') {
      const s = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: 30 }, audio: true });
      return { stream: s, stop: () => s.getTracks().forEach((t) => t.stop()) };
    }
    const device = (id) => ($(id).value ? { deviceId: { exact: $(id).value } } : {});
    const s = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: 30 }, ...device('camera') },
      audio: { channelCount: { ideal: 2 }, ...device('microphone') },
    });
    listDevices();
    return { stream: s, mirror: true, stop: () => s.getTracks().forEach((t) => t.stop()) };
  } catch (e) {
    throw mediaError(e);
  }
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

// problem turns a refusal into words.
async function problem(response) {
  let detail = '';
  try {
    detail = (await response.json()).detail || '';
  } catch { /* not a problem document */ }
  const after = Number(response.headers.get('Retry-After')) || 0;
  const say = (text) => (detail ? text + ' (' + detail + ')' : text);
  switch (response.status) {
    case 401: return new Plain(token ? 'The gateway does not accept this token.' : 'This stream needs a token.', { token: true });
    case 403: return new Plain('This token is not for this stream.', { token: true });
    case 404: return new Plain('The gateway has no route named ' + stream + '.');
    case 409: return new Plain(say('Somebody else is publishing this stream.'), { again: true, after: after || 3 });
    case 422: return new Plain(say('The gateway cannot use what this browser sends.'));
    case 429: case 502: case 503: case 504:
      return new Plain(say('The gateway is busy.'), { again: true, after: after || 1 });
    default: return new Plain(say('The gateway answered ' + response.status + '.'), { again: response.status >= 500 });
  }
}

function preferH264(transceiver) {
  if (!transceiver.setCodecPreferences || !RTCRtpSender.getCapabilities) return;
  const codecs = (RTCRtpSender.getCapabilities('video') || { codecs: [] }).codecs;
  const wanted = codecs.filter((c) => /\/h264$/i.test(c.mimeType));
  if (wanted.length) transceiver.setCodecPreferences([...wanted, ...codecs.filter((c) => !wanted.includes(c))]);
}

// A Session is one peer connection, from offer to end.
class Session {
  constructor(media) {
    this.pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    this.candidates = [];
    this.pc.onicecandidate = (e) => {
      if (e.candidate && e.candidate.candidate) this.candidates.push(e.candidate);
      this.trickle();
    };
    for (const track of media.getTracks()) {
      const t = this.pc.addTransceiver(track, { direction: 'sendonly', streams: [media] });
      if (track.kind === 'video') {
        track.contentHint = $('source').value === 'screen' ? 'detail' : 'motion';
        preferH264(t);
      }
    }
  }

  async open() {
    await this.pc.setLocalDescription();
    const headers = { 'Content-Type': 'application/sdp' };
    if (token) headers.Authorization = 'Bearer ' + token;
    let response;
    try {
      response = await fetch(endpoint, { method: 'POST', headers, body: this.pc.localDescription.sdp });
    } catch {
      throw new Plain('The gateway cannot be reached.', { again: true });
    }
    if (response.status !== 201) throw await problem(response);
    this.url = new URL(response.headers.get('Location'), location.href);
    this.etag = response.headers.get('ETag');
    await this.pc.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    this.trickle();
    await this.connected();
  }

  // trickle sends the candidates found after the offer.
  trickle() {
    if (!this.url || !this.candidates.length) return;
    const ufrag = /a=ice-ufrag:(\S+)/.exec(this.pc.localDescription.sdp);
    const pwd = /a=ice-pwd:(\S+)/.exec(this.pc.localDescription.sdp);
    let body = 'a=ice-ufrag:' + ufrag[1] + '\r\na=ice-pwd:' + pwd[1] + '\r\n';
    for (const c of this.candidates.splice(0, 32)) {
      body += 'm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:' + c.sdpMid + '\r\na=' + c.candidate + '\r\n';
    }
    fetch(this.url, {
      method: 'PATCH', headers: { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': this.etag }, body,
    }).catch(() => {});
  }

  connected() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Plain('No connection for media came about. Is the UDP port of the gateway reachable?', { again: true })), CONNECT_MS);
      const check = () => {
        switch (this.pc.connectionState) {
          case 'connected': clearTimeout(timer); resolve(); break;
          case 'failed': case 'closed':
            clearTimeout(timer);
            reject(new Plain('No connection for media came about. Is the UDP port of the gateway reachable?', { again: true }));
        }
      };
      this.pc.addEventListener('connectionstatechange', check);
      check();
    });
  }

  // lost resolves when the connection breaks.
  lost() {
    return new Promise((resolve) => {
      let timer = 0;
      this.pc.addEventListener('connectionstatechange', () => {
        clearTimeout(timer);
        const state = this.pc.connectionState;
        if (state === 'failed' || state === 'closed') resolve();
        if (state === 'disconnected') timer = setTimeout(resolve, DISCONNECTED_MS);
      });
    });
  }

  // close ends the session; with goodbye the gateway ends the stream at once.
  async close(goodbye) {
    if (goodbye && this.url) await fetch(this.url, { method: 'DELETE' }).catch(() => {});
    this.pc.close();
  }
}

// A Run is from Start to Stop: sessions one after the other over the same media.
class Run {
  constructor() {
    this.stopped = new Promise((resolve) => { this.stop = resolve; }).then(() => { this.over = true; });
  }

  async go() {
    show('connecting');
    this.media = await capture();
    if (this.over) return;
    const video = $('preview');
    video.srcObject = this.media.stream;
    document.body.toggleAttribute('data-picture', true);
    document.body.toggleAttribute('data-mirror', Boolean(this.media.mirror));
    const ended = new Promise((resolve) => {
      this.media.stream.getTracks().forEach((t) => t.addEventListener('ended', resolve, { once: true }));
    }).then(() => 'ended');
    let wait = RETRY_FIRST_MS;
    let everLive = false;
    while (!this.over) {
      let after = 0;
      this.session = new Session(this.media.stream);
      try {
        await Promise.race([this.session.open(), this.stopped]);
        if (this.over) break;
        everLive = true;
        wait = RETRY_FIRST_MS;
        show('live');
        const what = await Promise.race([this.session.lost(), this.stopped, ended, this.watch(this.session)]);
        if (what === 'ended') {
          await this.session.close(true);
          show('ended', 'The device or the shared window was taken away.');
          return;
        }
        if (!this.over) show('reconnecting', 'The connection broke off. Trying again.');
      } catch (e) {
        if (!(e instanceof Plain) || !e.again) {
          await this.session.close(false);
          throw e;
        }
        after = e.after * 1000;
        show(everLive ? 'reconnecting' : 'connecting', e.message + ' Trying again.');
      }
      if (this.over) break;
      await this.session.close(false);
      await Promise.race([new Promise((r) => setTimeout(r, Math.max(after, wait * (0.5 + Math.random() / 2)))), this.stopped]);
      wait = Math.min(wait * 2, RETRY_MOST_MS);
    }
    if (this.session) await this.session.close(true);
    show('ended');
  }

  // watch shows figures once a second; it never resolves.
  watch(session) {
    let last = null;
    const tick = async () => {
      if (session.pc.connectionState === 'closed' || this.over) { clearInterval(timer); return; }
      const report = await session.pc.getStats();
      const now = { at: performance.now(), bytes: 0 };
      report.forEach((s) => {
        if (s.type === 'outbound-rtp') now.bytes += s.bytesSent + (s.headerBytesSent || 0);
        if (s.type === 'outbound-rtp' && s.kind === 'video' && s.frameWidth) {
          $('statPicture').textContent = s.frameWidth + ' × ' + s.frameHeight;
          $('statFrames').textContent = Math.round(s.framesPerSecond || 0) + ' /s';
        }
        if (s.type === 'candidate-pair' && s.nominated && s.currentRoundTripTime !== undefined) {
          $('statRoundTrip').textContent = (s.currentRoundTripTime * 1000).toFixed(0) + ' ms';
        }
        if (s.type === 'remote-inbound-rtp' && s.kind === 'video') {
          $('statLost').textContent = ((s.fractionLost || 0) * 100).toFixed(1) + ' %';
        }
      });
      if (last) $('statRate').textContent = Math.round(((now.bytes - last.bytes) * 8) / (now.at - last.at)) + ' kb/s';
      last = now;
      $('stats').hidden = false;
    };
    const timer = setInterval(tick, 1000);
    return new Promise(() => {});
  }

  end() {
    if (this.media) this.media.stop();
    $('preview').srcObject = null;
    document.body.removeAttribute('data-picture');
    document.body.removeAttribute('data-mirror');
  }
}

async function start() {
  if (run) return;
  run = new Run();
  token = $('token').value;
  try {
    await run.go();
  } catch (e) {
    show('failed', e instanceof Plain ? e.message : 'This did not work: ' + e.message);
    if (e.token) {
      $('tokenLabel').hidden = false;
      $('token').focus();
      $('token').select();
    }
  } finally {
    run.end();
    run = null;
  }
}

async function listDevices() {
  if (!navigator.mediaDevices) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  for (const [kind, id] of [['videoinput', 'camera'], ['audioinput', 'microphone']]) {
    const select = $(id);
    const chosen = select.value;
    select.length = 1;
    for (const d of devices) {
      if (d.kind === kind && d.deviceId && d.label) select.add(new Option(d.label, d.deviceId));
    }
    select.value = [...select.options].some((o) => o.value === chosen) ? chosen : '';
  }
}

function showDevices() {
  const camera = $('source').value === 'camera';
  for (const e of document.querySelectorAll('.device')) e.hidden = !camera;
  $('hint').textContent = camera ? 'Camera and microphone start when you press Start.' : 'The picture appears when you press Start.';
}

function choose(id, value) {
  if (value && [...$(id).options].some((o) => o.value === value)) $(id).value = value;
}

document.title = 'Publish ' + stream;
$('stream').textContent = stream;
$('token').value = token;
$('tokenLabel').hidden = Boolean(token);
choose('source', query.get('source'));
choose('size', query.get('size'));
$('source').addEventListener('change', showDevices);
$('controls').addEventListener('submit', (e) => { e.preventDefault(); start(); });
$('stop').addEventListener('click', () => { if (run) run.stop(); });
showDevices();
listDevices();
show('idle');
if (query.get('start') === '1') start();
