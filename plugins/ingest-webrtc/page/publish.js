// The publish page: what is sent, how it goes, and what to do when it does not.
//
// Parameters of the address: ?source=camera|screen|none|canvas ?size=1280x720
// ?bitrate=2500 ?start=1 (press Start by itself); #token=... is the stream's token.
// Elements to hold on to: body[data-state] is idle, connecting, live, reconnecting,
// failed or ended; while it is live, which says that the gateway has the stream,
// body[data-targets] is all, some or none, for those targets that have it; #start, #stop, #look, #muteSound, #mutePicture, #state, #error,
// #preview, #source, #camera, #microphone, #sound, #size, #bitrate, #token, #targets,
// #stat*.
import { Refusal, Session } from './whip.js';
import { capture, devices, Level, MediaError } from './media.js';

const $ = (id) => document.getElementById(id);
const stream = decodeURIComponent(location.pathname.replace(/^\/publish\//, ''));
const endpoint = location.origin + '/whip/' + stream;
const query = new URLSearchParams(location.search);

// How often and how long a lost connection is tried again.
const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 8000;
// How long packets may be missing before ICE is restarted, and how long that may take.
const DISCONNECTED_MS = 1000;
const RESTART_MS = 4000;
// How long nothing may come back from the gateway, which reports once a second: after
// a change of network the browser itself notices much later.
const DEAF_MS = 3000;
// How often the gateway is asked whether it still has the session: long before the
// browser gives up the connection itself.
const ALIVE_MS = 1500;

let token = new URLSearchParams(location.hash.slice(1)).get('token') || '';
let run = null; // the running publication
let media = null; // what the preview shows
let level = null;

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

// State and errors.

const texts = {
  idle: 'Ready', connecting: 'Connecting', live: 'Connected', reconnecting: 'Reconnecting', failed: 'Not publishing', ended: 'Ended',
};
const busyStates = ['connecting', 'live', 'reconnecting'];

function show(state, error) {
  document.body.dataset.state = state;
  if (state !== 'live') showTargets(null);
  label();
  say(error);
  const busy = busyStates.includes(state);
  // The button of the moment takes the focus from what is switched off: for whoever
  // has no mouse.
  const [on, off] = busy ? [$('stop'), $('start')] : [$('start'), $('stop')];
  const focused = document.activeElement === off || $('controls').contains(document.activeElement);
  on.disabled = on.hidden = false;
  if (focused) on.focus();
  off.disabled = off.hidden = true;
  $('look').hidden = busy;
  allow();
  if (!busy) $('stats').hidden = $('clock').hidden = true;
}

// label says in a word how it is: Live only when a target has the stream.
function label() {
  const { state, targets } = document.body.dataset;
  let text = texts[state];
  if (state === 'live' && targets === 'all') text = 'Live';
  if (state === 'live' && targets === 'some') text = 'Live in part';
  if (state === 'live' && targets === 'none') text = 'Connected, not live';
  if ($('state').textContent !== text) $('state').textContent = text;
}

const targetWords = { live: 'live', connecting: 'connecting', waiting: 'waiting', failed: 'not working' };

// showTargets shows where the gateway sends the stream; null where that is not known.
function showTargets(targets) {
  const list = $('targets');
  const live = (targets || []).filter((t) => t.state === 'live').length;
  if (targets && document.body.dataset.state === 'live') document.body.dataset.targets = live === 0 ? 'none' : live === targets.length ? 'all' : 'some';
  else delete document.body.dataset.targets;
  const lines = (targets || []).map((t) => [t.state, t.name, targetWords[t.state] + (t.reason ? ', because ' + t.reason : '')]);
  if (targets && !targets.length) lines.push(['waiting', '', 'The gateway has the stream and sends it nowhere: its route has no targets.']);
  list.hidden = !lines.length;
  label();
  if (list.dataset.shown === JSON.stringify(lines)) return; // nobody wants to hear it again
  list.dataset.shown = JSON.stringify(lines);
  list.replaceChildren(...lines.map(([state, name, text]) => {
    const item = document.createElement('li');
    item.dataset.target = state;
    const words = document.createElement('span');
    words.textContent = text;
    if (name) {
      const bold = document.createElement('b');
      bold.textContent = name;
      item.append(bold, ' ');
    }
    item.append(words);
    return item;
  }));
}

// While something is published, devices and bitrate can be changed, but not which
// kinds of tracks there are.
const whileBusy = ['source', 'camera', 'microphone', 'sound', 'size', 'bitrate'];

function allow() {
  const busy = busyStates.includes(document.body.dataset.state);
  const devices = ['camera', 'screen'].includes($('source').value);
  for (const e of $('controls').querySelectorAll('select, input')) {
    let can = whileBusy.includes(e.id);
    if (e.id === 'source' || e.id === 'size') can = devices;
    if (e.id === 'microphone' && (!media || !media.stream.getAudioTracks().length)) can = false;
    e.disabled = busy && !can;
  }
  for (const [id, values] of [['source', ['none', 'canvas']], ['microphone', ['none']]]) {
    for (const o of $(id).options) if (values.includes(o.value)) o.disabled = busy;
  }
}

function say(error) {
  $('error').hidden = !error;
  if ($('error').textContent !== (error || '')) $('error').textContent = error || '';
}

// explain turns what went wrong into words, and says whether trying again can help.
function explain(e) {
  if (e instanceof MediaError) return { text: e.message };
  if (!(e instanceof Refusal)) return { text: 'This did not work: ' + e.message };
  const why = (text) => (e.detail ? text + ' (' + e.detail + ')' : text);
  switch (e.status) {
    case 0: return {
      again: true,
      text: e.offline ? 'The gateway cannot be reached.'
        : 'No connection for media came about: something between here and the gateway blocks it. Are its UDP and TCP media ports reachable from this network?',
    };
    case 401: return { text: token ? 'The gateway does not accept this token.' : 'This stream needs a token.', token: true };
    case 403: return { text: 'This token is not for this stream.', token: true };
    case 404: return { text: 'The gateway has no route named ' + stream + '.' };
    case 409: return { text: why('Somebody else is publishing this stream.'), again: true, after: e.after || 3 };
    case 422: return { text: why('The gateway cannot use what this browser sends.') };
    case 429: return { text: why('The gateway wants fewer attempts.'), again: true, after: e.after || 1 };
    case 502: case 503: case 504: return { text: why('The gateway is busy.'), again: true, after: e.after || 1 };
    default: return { text: why('The gateway answered ' + e.status + '.'), again: e.status >= 500 };
  }
}

// Picture and sound.

function choices() {
  const [width, height] = $('size').value.split('x').map(Number);
  return {
    source: $('source').value, width, height,
    camera: $('camera').value, microphone: $('microphone').value, music: $('sound').value === 'music',
  };
}

async function open() {
  close();
  media = await capture(choices());
  const video = $('preview');
  video.srcObject = media.stream;
  document.body.toggleAttribute('data-picture', media.stream.getVideoTracks().length > 0);
  document.body.toggleAttribute('data-mirror', Boolean(media.mirror));
  meter();
  setMutes();
  hint();
  await listDevices();
}

// meter shows how loud the sound is that is sent now.
function meter() {
  if (level) level.stop();
  level = null;
  if (!media.stream.getAudioTracks().length) return;
  level = new Level(media.stream);
  $('level').hidden = false;
  const mine = level;
  let most = 0; // since it was last told
  const draw = () => {
    if (level !== mine) return;
    const v = mine.read();
    most = Math.max(most, v);
    $('level').firstElementChild.style.transform = 'scaleX(' + (1 - v).toFixed(3) + ')';
    requestAnimationFrame(draw);
  };
  requestAnimationFrame(draw);
  const tell = setInterval(() => {
    if (level !== mine) { clearInterval(tell); return; }
    $('level').setAttribute('aria-valuenow', String(Math.round(most * 100)));
    most = 0;
  }, 500);
}

function close() {
  if (level) level.stop();
  if (media) media.stop();
  level = media = null;
  $('preview').srcObject = null;
  $('level').hidden = true;
  document.body.removeAttribute('data-picture');
  document.body.removeAttribute('data-mirror');
  for (const id of ['muteSound', 'mutePicture']) $(id).setAttribute('aria-pressed', 'false');
  setMutes();
  hint();
}

function setMutes() {
  const tracks = (kind) => (media ? media.stream.getTracks().filter((t) => t.kind === kind) : []);
  for (const [id, kind] of [['muteSound', 'audio'], ['mutePicture', 'video']]) {
    $(id).disabled = !tracks(kind).length;
    for (const t of tracks(kind)) t.enabled = $(id).getAttribute('aria-pressed') !== 'true';
  }
  $('look').textContent = media ? 'End preview' : 'Preview';
}

function hint() {
  const source = $('source').value;
  let text = 'The picture appears when you press Start or Preview.';
  if (source === 'camera') text = 'Camera and microphone start when you press Start or Preview.';
  if (source === 'screen') text = 'Press Start or Preview, then choose what to share.';
  if (source === 'none') text = media ? 'Sound only' : 'The microphone starts when you press Start or Preview.';
  $('hint').textContent = text;
}

// change takes what was newly chosen into the publication that runs. What cannot be
// had leaves everything as it is.
async function change(id) {
  const session = run && run.session;
  if (id === 'bitrate') {
    if (session) await session.limit(Number($('bitrate').value));
    return;
  }
  const kind = ['microphone', 'sound'].includes(id) ? 'audio' : 'video';
  const mine = media;
  const before = mine.stream.getTracks().find((t) => t.kind === kind);
  if (!before) return;
  let fresh;
  try {
    fresh = await capture({ ...choices(), only: kind });
  } catch (e) {
    say(explain(e).text + ' What was sent before goes on.');
    return;
  }
  const [track] = fresh.stream.getTracks();
  if (media !== mine || !run) { fresh.stop(); return; } // stopped meanwhile
  track.enabled = before.enabled;
  if (run.session) await run.session.replace(track, $('source').value === 'screen');
  mine.stream.removeTrack(before);
  before.stop();
  mine.stream.addTrack(track);
  run.watch(track);
  if (kind === 'video') document.body.toggleAttribute('data-mirror', Boolean(fresh.mirror));
  else meter();
  say('');
}

async function look() {
  if (media) { close(); return; }
  say('');
  try {
    await open();
  } catch (e) {
    say(explain(e).text);
  }
}

async function listDevices() {
  const all = await devices();
  for (const [kind, id] of [['videoinput', 'camera'], ['audioinput', 'microphone']]) {
    const select = $(id);
    const chosen = select.value;
    for (const o of [...select.options]) if (o.dataset.device) o.remove();
    for (const d of all.filter((x) => x.kind === kind)) {
      const o = new Option(d.name, d.id);
      o.dataset.device = '1';
      select.add(o, kind === 'audioinput' ? select.options.length - 1 : undefined);
    }
    select.value = [...select.options].some((o) => o.value === chosen) ? chosen : '';
  }
}

// Publishing.

// A Run is from Start to Stop: sessions one after the other over the same media.
class Run {
  constructor() {
    this.stopped = new Promise((resolve) => { this.stop = resolve; }).then(() => { this.over = true; return 'stopped'; });
    this.figures = new Figures();
    this.ended = new Promise((resolve) => { this.takenAway = () => resolve('ended'); });
  }

  // watch ends the run when the track is taken away.
  watch(track) { track.addEventListener('ended', this.takenAway, { once: true }); }

  async go() {
    show('connecting');
    if (!media) await open();
    if (this.over) return;
    media.stream.getTracks().forEach((t) => this.watch(t));
    let wait = RETRY_FIRST_MS;
    let everLive = false;
    while (!this.over) {
      let problem;
      const session = new Session(endpoint, token, media.stream, { detail: $('source').value === 'screen', maxKbps: Number($('bitrate').value) });
      this.session = session;
      try {
        await Promise.race([session.open(), this.stopped]);
        if (this.over) break;
        everLive = true;
        wait = RETRY_FIRST_MS;
        show('live');
        this.figures.follow(session.pc);
        const what = await Promise.race([this.hold(session), this.stopped, this.ended]);
        if (what === 'ended') {
          await session.close(true);
          show('ended', 'The device or the shared window was taken away.');
          return;
        }
        problem = what === 'stopped' ? {} : { again: true, text: 'The connection broke off.', after: what.after };
      } catch (e) {
        problem = explain(e);
        // A token that was right is still right, and a route does not vanish: this
        // gateway has only just started.
        if (!problem.again && !(everLive && e instanceof Refusal && e.status === 404)) {
          await session.close(false);
          throw e;
        }
      } finally {
        this.figures.unfollow();
      }
      if (this.over) break;
      await session.close(false);
      await this.pause(everLive ? 'reconnecting' : 'connecting', problem.text, Math.max((problem.after || 0) * 1000, wait * (0.5 + Math.random() / 2)));
      wait = Math.min(wait * 2, RETRY_MOST_MS);
    }
    if (this.session) await this.session.close(true);
    show('ended');
  }

  // pause waits and counts down.
  async pause(state, text, ms) {
    const until = performance.now() + ms;
    while (!this.over) {
      const left = until - performance.now();
      show(state, text + (ms >= 2000 ? ' Trying again in ' + Math.ceil(Math.max(left, 0) / 1000) + ' s.' : ' Trying again.'));
      if (left <= 0) return;
      await Promise.race([sleep(Math.min(left, 1000)), this.stopped]);
    }
  }

  // hold keeps the session while it can be kept, over changes of the network, and
  // resolves when it is lost: { after } says when to try again.
  async hold(session) {
    let asked = 0;
    let missing = 0; // since when packets are missing
    let restarted = false;
    let heard = 0; // how much had come back
    let heardAt = performance.now(); // when that last was more
    while (!this.over) {
      await Promise.race([sleep(250), this.stopped]);
      if (this.over) return {};
      const now = performance.now();
      const state = session.pc.connectionState;
      const came = await received(session.pc);
      if (came !== heard) [heard, heardAt] = [came, now];
      if (state === 'connected' && (!heard || now - heardAt < DEAF_MS)) {
        if (missing) show('live');
        missing = 0;
        restarted = false;
      } else if (!missing) {
        missing = now;
      }
      if (state === 'closed') return {};
      if (now - asked >= ALIVE_MS) {
        asked = now;
        const answer = await Promise.race([session.ask(), sleep(ALIVE_MS).then(() => null)]);
        if (answer instanceof Refusal) return { after: answer.after };
        if (answer) showTargets(answer.targets);
      }
      if (missing && (state === 'failed' || now - missing >= DISCONNECTED_MS)) {
        if (restarted && state === 'failed') return {};
        if (!restarted || now - missing >= RESTART_MS) {
          show('reconnecting', 'The network has changed. Looking for another way.');
          try {
            await session.restart(RESTART_MS);
          } catch (e) {
            if (e instanceof Refusal && e.status) return { after: e.after };
            if (e instanceof Refusal && !e.offline) return {};
          }
          restarted = true;
          heardAt = performance.now();
        }
      }
    }
    return {};
  }
}

// received counts the packets of the gateway, without those that look for a way.
async function received(pc) {
  let n = 0;
  (await pc.getStats()).forEach((s) => {
    if (s.type === 'transport') n += s.packetsReceived === undefined ? s.bytesReceived : s.packetsReceived;
  });
  return n;
}

async function start() {
  if (run) return;
  run = new Run();
  token = $('token').value;
  commands();
  try {
    await run.go();
  } catch (e) {
    const problem = explain(e);
    show('failed', problem.text);
    if (problem.token) {
      $('tokenLabel').hidden = false;
      $('token').focus();
      $('token').select();
    }
  } finally {
    run = null;
    close();
  }
}

// Figures.

const limits = { none: 'nothing', cpu: 'this computer', bandwidth: 'the network', other: 'the browser' };

// Figures show once a second how the publication goes.
class Figures {
  constructor() {
    this.rates = [];
    this.since = 0;
  }

  follow(pc) {
    this.last = null;
    this.since = this.since || performance.now();
    this.timer = setInterval(() => this.tick(pc), 1000);
  }

  unfollow() { clearInterval(this.timer); }

  async tick(pc) {
    const report = await pc.getStats();
    const now = { at: performance.now(), bytes: 0 };
    const codecs = [];
    report.forEach((s) => {
      if (s.type === 'outbound-rtp') {
        now.bytes += s.bytesSent + (s.headerBytesSent || 0);
        const codec = report.get(s.codecId);
        if (codec) codecs[s.kind === 'video' ? 'unshift' : 'push'](codec.mimeType.split('/')[1]);
      }
      if (s.type === 'outbound-rtp' && s.kind === 'video') {
        if (s.frameWidth) $('statPicture').textContent = s.frameWidth + ' × ' + s.frameHeight;
        $('statFrames').textContent = Math.round(s.framesPerSecond || 0) + ' /s';
        $('statLimit').textContent = limits[s.qualityLimitationReason] || '–';
      }
      if (s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded' && s.currentRoundTripTime !== undefined) {
        $('statRoundTrip').textContent = (s.currentRoundTripTime * 1000).toFixed(0) + ' ms';
      }
      if (s.type === 'remote-inbound-rtp' && (s.kind === 'video' || !pc.getSenders().some((x) => x.track && x.track.kind === 'video'))) {
        $('statLost').textContent = ((s.fractionLost || 0) * 100).toFixed(1) + ' %';
      }
    });
    $('statCodecs').textContent = codecs.join(', ') || '–';
    if (this.last) {
      const rate = ((now.bytes - this.last.bytes) * 8) / (now.at - this.last.at);
      this.rates = [...this.rates.slice(-59), rate];
      $('statRate').textContent = rate >= 1000 ? (rate / 1000).toFixed(2) + ' Mb/s' : Math.round(rate) + ' kb/s';
      this.draw();
    }
    this.last = now;
    const s = Math.floor((now.at - this.since) / 1000);
    $('clock').textContent = (s >= 3600 ? Math.floor(s / 3600) + ':' + String(Math.floor(s / 60) % 60).padStart(2, '0') : Math.floor(s / 60)) + ':' + String(s % 60).padStart(2, '0');
    if (busyStates.includes(document.body.dataset.state)) $('stats').hidden = $('clock').hidden = false;
  }

  draw() {
    const canvas = $('graph');
    const g = canvas.getContext('2d');
    const most = Math.max(...this.rates, 100);
    g.clearRect(0, 0, canvas.width, canvas.height);
    g.beginPath();
    this.rates.forEach((r, i) => g.lineTo(canvas.width - (this.rates.length - 1 - i) * (canvas.width / 59), canvas.height - 3 - (r / most) * (canvas.height - 6)));
    g.strokeStyle = getComputedStyle(canvas).color;
    g.lineWidth = 3;
    g.lineJoin = 'round';
    g.stroke();
    g.lineTo(canvas.width, canvas.height);
    g.lineTo(canvas.width - (this.rates.length - 1) * (canvas.width / 59), canvas.height);
    g.globalAlpha = 0.15;
    g.fillStyle = g.strokeStyle;
    g.fill();
    g.globalAlpha = 1;
  }
}

// Commands for other programs.

function commands() {
  const key = $('withToken').checked && $('token').value ? $('token').value : 'TOKEN';
  const quoted = "'" + key.replace(/'/g, "'\\''") + "'";
  const shell = /^[\w.~-]+$/.test(key) ? key : quoted;
  $('obsServer').textContent = endpoint;
  $('obsToken').textContent = key;
  $('ffmpeg').textContent = 'ffmpeg -re -f lavfi -i testsrc2=size=1280x720:rate=30 -f lavfi -i sine=frequency=1000:sample_rate=48000 \\\n'
    + '  -c:v libx264 -profile:v baseline -tune zerolatency -g 60 -b:v 2500k -pix_fmt yuv420p \\\n'
    + '  -c:a libopus -ac 2 -b:a 128k -f whip -authorization ' + shell + ' ' + endpoint;
  $('gstreamer').textContent = 'gst-launch-1.0 whipclientsink name=out signaller::whip-endpoint=' + endpoint + ' signaller::auth-token=' + shell + ' \\\n'
    + '    video-caps="video/x-h264" audio-caps="audio/x-opus" \\\n'
    + '  videotestsrc is-live=true ! video/x-raw,width=1280,height=720,framerate=30/1 ! out. \\\n'
    + '  audiotestsrc is-live=true ! audio/x-raw,channels=2,rate=48000 ! out.';
}

async function copy(button) {
  const code = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch { // without https, or not allowed: it can be copied by hand
    getSelection().selectAllChildren(code);
    button.textContent = 'Selected';
  }
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

// The page.

function showChoices() {
  const source = $('source').value;
  for (const e of document.querySelectorAll('.camera')) e.hidden = source !== 'camera';
  for (const e of document.querySelectorAll('.microphone')) e.hidden = source === 'canvas';
  for (const e of document.querySelectorAll('.picture')) e.hidden = source === 'none';
  hint();
}

function choose(id, value) {
  if (value && [...$(id).options].some((o) => o.value === value)) $(id).value = value;
}

document.title = 'Publish ' + stream;
$('stream').textContent = stream;
$('token').value = token;
$('tokenLabel').hidden = Boolean(token);
for (const id of ['source', 'size', 'bitrate']) choose(id, query.get(id));
$('controls').addEventListener('submit', (e) => { e.preventDefault(); start(); });
$('controls').addEventListener('change', (e) => {
  showChoices();
  commands();
  if (run && media && whileBusy.includes(e.target.id)) change(e.target.id);
  // What is looked at follows the choice.
  if (media && !run && ['source', 'camera', 'microphone', 'sound', 'size'].includes(e.target.id)) { close(); look(); }
});
$('stop').addEventListener('click', () => { if (run) run.stop(); });
$('look').addEventListener('click', look);
for (const id of ['muteSound', 'mutePicture']) {
  $(id).addEventListener('click', () => {
    $(id).setAttribute('aria-pressed', String($(id).getAttribute('aria-pressed') !== 'true'));
    setMutes();
  });
}
$('withToken').addEventListener('change', commands);
for (const b of document.querySelectorAll('[data-copy]')) b.addEventListener('click', () => copy(b));
if (navigator.mediaDevices) navigator.mediaDevices.addEventListener('devicechange', listDevices);
// Whoever closes the page says so by DTLS, so that the gateway need not wait; not by
// DELETE, which would end the broadcast of who only loads the page again.
addEventListener('pagehide', () => { if (run && run.session) run.session.close(false); });
showChoices();
commands();
listDevices();
show('idle');
if (query.get('start') === '1') start();
