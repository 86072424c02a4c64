// A WHIP session (RFC 9725) in the browser. It knows the protocol and nothing of the page.

const CONNECT_MS = 12000;
const FRAGMENT = 'application/trickle-ice-sdpfrag';

// A Refusal is an answer that is not success; status 0 where none came.
export class Refusal extends Error {
  constructor(status, detail, after, offline = false) {
    super(detail || 'status ' + status);
    this.status = status;
    this.detail = detail;
    this.after = after; // seconds, from Retry-After
    this.offline = offline;
  }
}

async function refusal(response) {
  let detail = '';
  try {
    detail = (await response.json()).detail || '';
  } catch { /* not a problem document */ }
  return new Refusal(response.status, detail, Number(response.headers.get('Retry-After')) || 0);
}

// iceServers reads the Link headers of an answer.
export function iceServers(header) {
  const servers = [];
  for (const [, url, rest] of (header || '').matchAll(/<([^>]+)>((?:\s*;\s*[\w-]+="(?:[^"\\]|\\.)*")*)/g)) {
    const value = {};
    for (const [, key, text] of rest.matchAll(/([\w-]+)="((?:[^"\\]|\\.)*)"/g)) value[key] = text.replace(/\\(.)/g, '$1');
    if (value.rel !== 'ice-server') continue;
    servers.push(value.username ? { urls: url, username: value.username, credential: value.credential } : { urls: url });
  }
  return servers;
}

function credentials(sdp) {
  return 'a=ice-ufrag:' + /a=ice-ufrag:(\S+)/.exec(sdp)[1] + '\r\na=ice-pwd:' + /a=ice-pwd:(\S+)/.exec(sdp)[1] + '\r\n';
}

// withICE is answer with the credentials and candidates of a fragment.
function withICE(answer, fragment) {
  const lines = fragment.split(/\r?\n/).filter((l) => /^a=(ice-ufrag|ice-pwd|candidate|end-of-candidates)/.test(l));
  const fresh = lines.filter((l) => l.startsWith('a=ice-')).join('\r\n') + '\r\n';
  const found = lines.filter((l) => l.startsWith('a=candidate')).join('\r\n') + '\r\n';
  let sections = 0;
  return answer.replace(/a=(candidate:|end-of-candidates|ice-pwd:)[^\r\n]*\r\n/g, '')
    .replace(/a=ice-ufrag:[^\r\n]*\r\n/g, () => fresh + (sections++ === 0 && found.trim() ? found : ''));
}

function preferH264(transceiver) {
  if (!transceiver.setCodecPreferences || !RTCRtpSender.getCapabilities) return;
  const { codecs } = RTCRtpSender.getCapabilities('video');
  const first = (c) => c.mimeType.toLowerCase() === 'video/h264' && /packetization-mode=1/.test(c.sdpFmtpLine || '');
  const mode1 = codecs.filter(first);
  if (mode1.length) transceiver.setCodecPreferences([...mode1, ...codecs.filter((c) => !first(c))]);
}

// A Session is one publication. media is a MediaStream; detail is whether sharp
// text matters more than motion; maxKbps of the picture, 0 for the browser's own.
export class Session {
  constructor(endpoint, token, media, { detail = false, maxKbps = 0 } = {}) {
    this.endpoint = endpoint;
    this.token = token;
    this.maxKbps = maxKbps;
    this.candidates = [];
    this.queue = Promise.resolve();
    this.pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle', rtcpMuxPolicy: 'require' });
    this.pc.onicecandidate = (e) => {
      // Names of .local mean nothing to a gateway elsewhere.
      if (e.candidate && e.candidate.candidate && !/\.local /.test(e.candidate.candidate)) {
        this.candidates.push(e.candidate);
        this.trickle();
      }
    };
    for (const track of media.getTracks()) {
      const t = this.pc.addTransceiver(track, { direction: 'sendonly', streams: [media] });
      if (track.kind === 'video') {
        track.contentHint = detail ? 'detail' : 'motion';
        preferH264(t);
        this.video = t.sender;
      }
    }
  }

  // open resolves when media flow. The offer is posted before candidates are looked
  // for: the answer may name servers to look with.
  async open() {
    const offer = await this.pc.createOffer();
    const response = await this.request('POST', this.endpoint, { 'Content-Type': 'application/sdp' }, offer.sdp);
    if (response.status !== 201) throw await refusal(response);
    this.url = new URL(response.headers.get('Location'), response.url);
    const etag = response.headers.get('ETag');
    this.answer = await response.text();
    const servers = iceServers(response.headers.get('Link'));
    if (servers.length) this.pc.setConfiguration({ ...this.pc.getConfiguration(), iceServers: servers });
    await this.pc.setLocalDescription(offer);
    await this.pc.setRemoteDescription({ type: 'answer', sdp: this.answer });
    this.etag = etag;
    this.trickle();
    await this.limit();
    await this.connected(CONNECT_MS);
  }

  async limit(maxKbps = this.maxKbps) {
    this.maxKbps = maxKbps;
    if (!this.video || !this.video.setParameters) return;
    const p = this.video.getParameters();
    if (!p.encodings || !p.encodings.length) return;
    if (this.maxKbps) p.encodings[0].maxBitrate = this.maxKbps * 1000;
    else delete p.encodings[0].maxBitrate;
    p.degradationPreference = 'maintain-resolution';
    await this.video.setParameters(p).catch(() => { /* a browser without: it goes as it goes */ });
  }

  request(method, url, headers, body) {
    if (this.token && method === 'POST') headers.Authorization = 'Bearer ' + this.token;
    return fetch(url, { method, headers, body, cache: 'no-store' }).catch(() => { throw new Refusal(0, '', 0, true); });
  }

  // trickle sends what candidates were found since, one request after the other.
  trickle() {
    if (!this.etag || !this.candidates.length) return;
    this.queue = this.queue.then(async () => {
      const found = this.candidates.splice(0, 32);
      if (!this.etag || !found.length) return;
      let body = credentials(this.pc.localDescription.sdp);
      for (const c of found) body += 'm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:' + c.sdpMid + '\r\na=' + c.candidate + '\r\n';
      await this.request('PATCH', this.url, { 'Content-Type': FRAGMENT, 'If-Match': this.etag }, body);
    }).catch(() => { /* a candidate less */ });
  }

  // restart begins a new ICE session after the network has changed, and resolves
  // when it stands.
  async restart(ms) {
    await this.queue;
    this.etag = null; // candidates wait
    this.candidates = [];
    const offer = await this.pc.createOffer({ iceRestart: true });
    await this.pc.setLocalDescription(offer);
    try {
      const response = await this.request('PATCH', this.url, { 'Content-Type': FRAGMENT, 'If-Match': '*' }, credentials(offer.sdp));
      if (response.status !== 200) throw await refusal(response);
      const etag = response.headers.get('ETag');
      this.answer = withICE(this.answer, await response.text());
      await this.pc.setRemoteDescription({ type: 'answer', sdp: this.answer });
      this.etag = etag;
      this.trickle();
    } catch (e) {
      if (this.pc.signalingState === 'have-local-offer') await this.pc.setLocalDescription({ type: 'rollback' });
      throw e;
    }
    await this.connected(ms);
  }

  connected(ms) {
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Refusal(0, '', 0));
      const timer = setTimeout(fail, ms);
      const check = () => {
        const state = this.pc.connectionState;
        if (state === 'connected') { clearTimeout(timer); resolve(); }
        if (state === 'failed' || state === 'closed') { clearTimeout(timer); fail(); }
      };
      this.pc.addEventListener('connectionstatechange', check);
      check();
    });
  }

  // ask asks the gateway whether it has the session and where it sends it: { targets },
  // null where it does not know; the Refusal if it has not; or null if nobody answered.
  async ask() {
    try {
      const response = await this.request('GET', this.url + '/targets', {});
      return response.ok ? await response.json() : await refusal(response);
    } catch {
      return null;
    }
  }

  // replace sends another track of the same kind from now on, within the session.
  async replace(track, detail) {
    const sender = this.pc.getSenders().find((s) => s.track && s.track.kind === track.kind);
    if (!sender) return;
    if (track.kind === 'video') track.contentHint = detail ? 'detail' : 'motion';
    await sender.replaceTrack(track);
  }

  // close ends the session; with goodbye the gateway ends the stream at once.
  async close(goodbye) {
    if (goodbye && this.url) await this.request('DELETE', this.url, {}).catch(() => {});
    this.pc.close();
  }
}
