package egressrtmp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/headgate/gateway/internal/rtmp"
	"github.com/headgate/gateway/sdk"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
)

// Options are those of one target.
type Options struct {
	// Interleave is low or strict.
	Interleave Interleave `json:"interleave,omitempty" jsonschema:"enum=low,enum=strict,default=low,description=low sends every unit at once; strict orders audio and video by time and waits for it"`
	// OnChange is header or reconnect.
	OnChange OnChange `json:"on_change,omitempty" jsonschema:"enum=header,enum=reconnect,default=header,description=what a change of the decoder config becomes: a new header within the stream or a new connection"`
	// EarlyAudio is drop or keep.
	EarlyAudio EarlyAudio `json:"early_audio,omitempty" jsonschema:"enum=drop,enum=keep,default=drop,description=what becomes of sound from before the first picture"`
	// Codecs are those that the target takes whatever its server says of itself.
	Codecs []media.Codec `json:"codecs,omitempty" jsonschema:"description=the codecs that the target takes (h264 h265 av1 vp9 aac opus mp3) whatever its server announces"`
	// AudioTracks is how many it takes; 0 means what its server announced.
	AudioTracks int `json:"audio_tracks,omitempty" jsonschema:"minimum=0,maximum=8,description=how many audio tracks the target takes; 0 leaves it to what its server announces"`

	// CA is a file of root certificates (PEM) that verify the server of an rtmps
	// target instead of those of the system.
	CA sdk.File `json:"ca,omitzero" jsonschema:"description=file of root certificates (PEM) that verify the server instead of those of the system"`
	// Fingerprint is the SHA-256 of the one certificate that the server may show.
	Fingerprint string `json:"fingerprint,omitempty" jsonschema:"description=SHA-256 of the one certificate that the server may show; nothing else of it is verified"`
	// Certificate and CertificateKey are what we show to the server (PEM).
	Certificate    sdk.File `json:"certificate,omitzero" jsonschema:"description=file of the certificate (PEM) that is shown to the server"`
	CertificateKey sdk.File `json:"certificate_key,omitzero" jsonschema:"description=file of its private key (PEM)"`

	// Bind is the local address to connect from.
	Bind string `json:"bind,omitempty" jsonschema:"description=local address to connect from"`
	// Proxy is what the connection is made through.
	Proxy secret.String `json:"proxy,omitzero" jsonschema:"description=http://host:port or socks5://host:port; user:password@ before the host if it asks for them"`
	// ReconnectTo are hosts, and the domains below them, that the server may send us
	// to beside those of its own domain.
	ReconnectTo []string `json:"reconnect_to,omitempty" jsonschema:"description=hosts or domains that the server may send us to beside its own domain"`
}

// Interleave says in which order audio and video leave.
type Interleave string

// The ways to interleave.
const (
	// InterleaveLow sends each unit as it comes: timestamps rise on each track, not
	// across them.
	InterleaveLow Interleave = "low"
	// InterleaveStrict merges the tracks by time and waits for the slower one, for
	// servers that package what arrives in the order of arrival.
	InterleaveStrict Interleave = "strict"
)

// OnChange says what a change of the decoder config becomes.
type OnChange string

// The ways to change.
const (
	// ChangeHeader sends a new sequence header within the stream.
	ChangeHeader OnChange = "header"
	// ChangeReconnect ends the stream and begins another, for servers that do not
	// look at a second header.
	ChangeReconnect OnChange = "reconnect"
)

// EarlyAudio says what becomes of sound from before the first picture.
type EarlyAudio string

// What can become of it.
const (
	// AudioDrop begins with a picture, unless none comes.
	AudioDrop EarlyAudio = "drop"
	// AudioKeep begins with whatever comes first.
	AudioKeep EarlyAudio = "keep"
)

// defaults fills in what is left out.
func (o *Options) defaults() {
	if o.Interleave == "" {
		o.Interleave = InterleaveLow
	}
	if o.OnChange == "" {
		o.OnChange = ChangeHeader
	}
	if o.EarlyAudio == "" {
		o.EarlyAudio = AudioDrop
	}
}

// carried are the codecs that a target may take, those first that every server takes.
func carried() []media.Codec {
	return append([]media.Codec{media.H264, media.AAC}, optional()...)
}

// optional are the codecs that need Enhanced RTMP.
func optional() []media.Codec {
	return []media.Codec{media.H265, media.AV1, media.VP9, media.Opus, media.MP3}
}

// announcedAudioTracks is how many audio tracks a server gets that announced that it
// takes several.
const announcedAudioTracks = 8

// client is how to connect to at.
func (o *Options) client(target sdk.Target, at rtmp.Target) (rtmp.ClientConfig, error) {
	cfg := rtmp.ClientConfig{Target: at, Control: target.Control}
	switch o.Interleave {
	case InterleaveLow, InterleaveStrict:
	default:
		return cfg, errors.New("interleave: not one of the values it can have; want low or strict")
	}
	switch o.OnChange {
	case ChangeHeader, ChangeReconnect:
	default:
		return cfg, errors.New("on_change: not one of the values it can have; want header or reconnect")
	}
	switch o.EarlyAudio {
	case AudioDrop, AudioKeep:
	default:
		return cfg, errors.New("early_audio: not one of the values it can have; want drop or keep")
	}
	for _, c := range o.Codecs {
		if !slices.Contains(carried(), c) {
			return cfg, fmt.Errorf("codecs: there is one that it does not carry; want some of %v", carried())
		}
	}
	if err := o.secure(&cfg, at); err != nil {
		return cfg, err
	}
	var err error
	if o.Bind != "" {
		if cfg.Bind, err = netip.ParseAddr(o.Bind); err != nil {
			return cfg, errors.New("bind: not an address; want one of this machine such as 192.0.2.1")
		}
	}
	if !o.Proxy.Empty() {
		if target.Restricted {
			// The proxy resolves the name, so that nothing here sees where it leads.
			return cfg, errors.New("proxy: a target that was given by the API may not have one; remove it")
		}
		if cfg.Proxy, err = rtmp.ParseProxy(o.Proxy); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// secure reads what concerns TLS.
func (o *Options) secure(cfg *rtmp.ClientConfig, at rtmp.Target) error {
	given := func(f sdk.File) bool { return f.Name != "" || len(f.Content) > 0 }
	for name, is := range map[string]bool{
		"ca": given(o.CA), "fingerprint": o.Fingerprint != "", "certificate": given(o.Certificate), "certificate_key": given(o.CertificateKey),
	} {
		if is && !at.TLS {
			return fmt.Errorf("%s: the target's URL is rtmp, which is not secured; want rtmps", name)
		}
	}
	if given(o.CA) {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(o.CA.Content) {
			return fmt.Errorf("ca: no certificate in %s; want PEM", o.CA.Name)
		}
	}
	if o.Fingerprint != "" {
		var err error
		if cfg.Fingerprint, err = rtmp.ParseFingerprint(o.Fingerprint); err != nil {
			return err
		}
	}
	if given(o.Certificate) != given(o.CertificateKey) {
		return errors.New("certificate and certificate_key belong together; want both or neither")
	}
	if given(o.Certificate) {
		pair, err := tls.X509KeyPair(o.Certificate.Content, o.CertificateKey.Content)
		if err != nil {
			return fmt.Errorf("certificate: %s and %s are no certificate and its key; want both in PEM", o.Certificate.Name, o.CertificateKey.Name)
		}
		cfg.Certificate = &pair
	}
	return nil
}

// accepts is what a server that announced caps takes of us.
func (o *Options) accepts(caps rtmp.Capabilities) sdk.Accepts {
	a := sdk.Accepts{Codecs: o.Codecs, VideoTracks: 1, AudioTracks: max(o.AudioTracks, 1)}
	if o.AudioTracks == 0 && caps.Multitrack() {
		a.AudioTracks = announcedAudioTracks
	}
	if len(o.Codecs) > 0 {
		return a
	}
	a.Codecs = []media.Codec{media.H264, media.AAC}
	for _, c := range optional() {
		if caps.Takes(c) {
			a.Codecs = append(a.Codecs, c)
		}
	}
	return a
}
