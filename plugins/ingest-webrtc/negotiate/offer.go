// Package negotiate decides on session descriptions: which offers the gateway
// can use, and what the answer must say so that senders send stereo, at a good
// rate, over one transport. Offers it refuses get a reason for the person who
// publishes.
//
// It knows SDP. It opens nothing and keeps nothing: the peer connection itself is
// session's.
package negotiate

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"

	"github.com/headgate/gateway/sdk/media"
)

// A Reason names why an offer is refused. The names are stable: they end the
// type of the problem document.
type Reason string

// The reasons. Malformed offers cannot be read; the others are well-formed but of
// no use.
const (
	Malformed     Reason = "malformed-offer"
	NoMedia       Reason = "no-media"
	Direction     Reason = "offer-direction"
	TooManyTracks Reason = "too-many-tracks"
	UnusableCodec Reason = "unusable-codec"
	Unsupported   Reason = "unsupported-media"
	Transport     Reason = "unsupported-transport"
)

// A Refusal is the error for an offer that the gateway does not take.
type Refusal struct {
	Reason Reason
	Detail string // for the person who publishes
}

func (r *Refusal) Error() string { return "offer refused: " + r.Detail }

// Limits of an offer. Real ones stay far below.
const (
	maxSections     = 16
	maxPayloadTypes = 64
	maxCandidates   = 64 // of one section
)

// An Offer is one that the gateway can answer.
type Offer struct {
	// SDP is what the peer connection is given: the offer without simulcast,
	// which the gateway does not take.
	SDP string
	// Codecs are those of the publisher's that the gateway has names for.
	Codecs       []media.Codec
	Video, Audio *Section
	// Passive: the publisher wants to be the DTLS server.
	Passive bool
	// Ufrag is the publisher's ICE user fragment.
	Ufrag string
}

// A Section is one m-line that will be received.
type Section struct {
	MID string
	// Codec is the one that will be received, in Formats. For video that is H.264
	// until [Offer.Choose], and empty if the offer has none.
	Codec   media.Codec
	Formats []Format
	// SSRC is the one that the sender announces; zero if it does not.
	SSRC uint32
	// ParameterSets are those of H.264 and H.265 that the offer has.
	ParameterSets [][]byte
	// Resent are the formats of retransmissions (RTX, RFC 4588) of Formats.
	Resent []Format
	// Redundant is the format with redundancy (RED, RFC 2198), where the publisher
	// prefers it to the plain one.
	Redundant []Format
	// TransportCC is the number of the header extension that counts the packets of
	// the whole transport; 0 if the section has none.
	TransportCC uint8

	all []namedFormat
}

// Resends reports whether the publisher sends again what it is asked for.
func (s *Section) Resends() bool { return s.feeds("nack") }

// TakesIntraRequests reports whether the publisher answers full intra requests.
func (s *Section) TakesIntraRequests() bool { return s.feeds("ccm fir") }

func (s *Section) feeds(kind string) bool {
	return slices.ContainsFunc(s.Formats, func(f Format) bool { return slices.Contains(f.Feedback, kind) })
}

// A Format is one payload type as the offer describes it.
type Format struct {
	PayloadType uint8
	Parameters  string // fmtp
	Feedback    []string
}

// Parse reads an offer and decides whether it can be used. The error is a *[Refusal].
func Parse(text []byte) (*Offer, error) {
	if !bytes.HasPrefix(text, []byte("v=0")) {
		return nil, &Refusal{Malformed, "the offer is not a session description: it does not begin with v=0"}
	}
	var d sdp.SessionDescription
	if err := d.Unmarshal(text); err != nil {
		return nil, &Refusal{Malformed, "the offer is not a session description: " + printable(err.Error())}
	}
	if len(d.MediaDescriptions) > maxSections {
		return nil, &Refusal{Malformed, fmt.Sprintf("the offer has %d media sections, more than %d", len(d.MediaDescriptions), maxSections)}
	}
	o := &Offer{}
	for _, m := range d.MediaDescriptions {
		if err := o.add(&d, m); err != nil {
			return nil, err
		}
	}
	if o.Video == nil && o.Audio == nil {
		return nil, &Refusal{NoMedia, "the offer has neither video nor audio"}
	}
	if err := o.transport(&d); err != nil {
		return nil, err
	}
	bundleWhatIsThere(&d)
	out, err := withoutSimulcast(&d).Marshal()
	if err != nil {
		return nil, &Refusal{Malformed, "the offer cannot be written again: " + printable(err.Error())}
	}
	o.SDP = string(out)
	return o, nil
}

// bundleWhatIsThere takes sections out of the group that the offer does not have:
// FFmpeg names two, also when it sends picture or sound alone.
func bundleWhatIsThere(d *sdp.SessionDescription) {
	for i, a := range d.Attributes {
		words := strings.Fields(a.Value)
		if a.Key != "group" || len(words) == 0 || words[0] != "BUNDLE" {
			continue
		}
		words = slices.DeleteFunc(words, func(mid string) bool {
			return mid != "BUNDLE" && !slices.ContainsFunc(d.MediaDescriptions, func(m *sdp.MediaDescription) bool {
				have, _ := m.Attribute("mid")
				return have == mid
			})
		})
		d.Attributes[i].Value = strings.Join(words, " ")
	}
}

// printable keeps what a parser quotes of its input from carrying control
// characters, or much at all, into a document.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 160)]
}

func (o *Offer) add(d *sdp.SessionDescription, m *sdp.MediaDescription) error {
	kind := m.MediaName.Media
	if len(m.MediaName.Formats) > maxPayloadTypes {
		return &Refusal{Malformed, fmt.Sprintf("the %s section has more than %d payload types", printable(kind), maxPayloadTypes)}
	}
	candidates := 0
	for _, a := range m.Attributes {
		if a.Key == "candidate" {
			candidates++
		}
	}
	if candidates > maxCandidates {
		return &Refusal{Malformed, fmt.Sprintf("the %s section has more than %d candidates", printable(kind), maxCandidates)}
	}
	var into **Section
	switch kind {
	case "video":
		into = &o.Video
	case "audio":
		into = &o.Audio
	case "application":
		return &Refusal{Unsupported, "the offer has a data channel; offer video and audio only"}
	default:
		return &Refusal{Unsupported, fmt.Sprintf("the offer has a section of kind %q; offer video and audio only", printable(kind))}
	}
	if *into != nil {
		return &Refusal{TooManyTracks, fmt.Sprintf("the offer has more than one %s track; offer one video and one audio track at most", kind)}
	}
	if dir := direction(d, m); dir != "sendonly" && dir != "sendrecv" {
		return &Refusal{Direction, fmt.Sprintf("the %s section is %s; a publisher offers sendonly", kind, dir)}
	}
	if _, muxed := m.Attribute("rtcp-mux"); !muxed {
		return &Refusal{Transport, fmt.Sprintf("the %s section lacks rtcp-mux", kind)}
	}
	s, err := o.section(m)
	if err != nil {
		return err
	}
	*into = s
	return nil
}

func direction(d *sdp.SessionDescription, m *sdp.MediaDescription) string {
	if m.MediaName.Port.Value == 0 {
		if _, bundled := m.Attribute("bundle-only"); !bundled {
			return "inactive"
		}
	}
	dir := "sendrecv"
	for _, attributes := range [][]sdp.Attribute{d.Attributes, m.Attributes} {
		for _, a := range attributes {
			switch a.Key {
			case "sendonly", "sendrecv", "recvonly", "inactive":
				dir = a.Key
			}
		}
	}
	return dir
}

// A codecName is how SDP calls a codec.
type codecName struct {
	sdp   string
	codec media.Codec
}

// known returns the gateway's name of a codec; empty for those it has none for.
func known(name string) media.Codec {
	for _, n := range []codecName{
		{"H264", media.H264}, {"H265", media.H265}, {"VP8", media.VP8}, {"VP9", media.VP9}, {"AV1", media.AV1},
		{"OPUS", media.Opus}, {"PCMA", media.PCMA}, {"PCMU", media.PCMU},
	} {
		if strings.EqualFold(n.sdp, name) {
			return n.codec
		}
	}
	return ""
}

// auxiliary reports whether a payload format carries no media of its own.
func auxiliary(name string) bool {
	switch strings.ToLower(name) {
	case "rtx", "red", "ulpfec", "flexfec-03", "cn", "telephone-event":
		return true
	}
	return false
}

func (o *Offer) section(m *sdp.MediaDescription) (*Section, error) {
	s := &Section{SSRC: firstSSRC(m), TransportCC: extension(m, sdp.TransportCCURI)}
	s.MID, _ = m.Attribute("mid")
	s.all = formats(m)
	want := []media.Codec{media.Opus}
	if m.MediaName.Media == "video" {
		want = videoCodecs
	}
	var there []media.Codec
	for _, f := range s.all {
		c := known(f.name)
		if c != "" && !slices.Contains(o.Codecs, c) {
			o.Codecs = append(o.Codecs, c)
		}
		if slices.Contains(want, c) {
			there = append(there, c)
		}
	}
	switch {
	case len(there) == 0:
		return nil, s.unusable(want[0])
	case slices.Contains(there, want[0]):
		s.use(want[0])
	}
	return s, nil
}

// videoCodecs are those that can be received, the one that every target carries
// first.
var videoCodecs = []media.Codec{media.H264, media.H265, media.AV1, media.VP9}

// unusable is the refusal of a section without a codec that can be used.
func (s *Section) unusable(need media.Codec) *Refusal {
	var offered []string
	for _, f := range s.all {
		if !auxiliary(f.name) && !slices.Contains(offered, f.name) {
			offered = append(offered, f.name)
		}
	}
	name := "H264"
	if need == media.Opus {
		name = "Opus"
	}
	return &Refusal{UnusableCodec, fmt.Sprintf("your browser offered %s; this route needs %s", list(offered), name)}
}

// Choose decides on the codec of the video: H.264 where it is offered, else another
// one of carried: that all targets of the route carry, or at least one. The error is a *[Refusal].
func (o *Offer) Choose(carried []media.Codec) error {
	if o.Video == nil || o.Video.Codec != "" {
		return nil
	}
	for _, c := range videoCodecs {
		if slices.Contains(carried, c) && o.Video.use(c) {
			return nil
		}
	}
	return o.Video.unusable(media.H264)
}

// use takes the formats of c; false if there are none.
func (s *Section) use(c media.Codec) bool {
	var single []Format // H.264 with packetization-mode 0
	for _, f := range s.all {
		switch {
		case known(f.name) != c:
		case c == media.H264 && parameter(f.Parameters, "packetization-mode") != "1":
			single = append(single, f.Format)
		default:
			s.Formats = append(s.Formats, f.Format)
		}
	}
	if len(s.Formats) == 0 {
		s.Formats = single
	}
	if len(s.Formats) == 0 {
		return false
	}
	s.Codec = c
	for _, f := range s.Formats {
		s.ParameterSets = append(s.ParameterSets, parameterSets(f.Parameters)...)
	}
	s.repair(s.all)
	return true
}

// repair finds the formats that help where packets are lost.
func (s *Section) repair(all []namedFormat) {
	taken := func(pt string) bool {
		return slices.ContainsFunc(s.Formats, func(f Format) bool { return strconv.Itoa(int(f.PayloadType)) == pt })
	}
	for _, f := range all {
		switch {
		case strings.EqualFold(f.name, "rtx") && taken(parameter(f.Parameters, "apt")):
			s.Resent = append(s.Resent, f.Format)
		case strings.EqualFold(f.name, "red") && all[0].PayloadType == f.PayloadType && redOf(f.Parameters, taken):
			s.Redundant = append(s.Redundant, f.Format)
		}
	}
}

// redOf reports whether all blocks of a RED format are of formats that are taken.
func redOf(parameters string, taken func(string) bool) bool {
	for pt := range strings.SplitSeq(parameters, "/") {
		if !taken(strings.TrimSpace(pt)) {
			return false
		}
	}
	return true
}

// extension is the number that the section gives a header extension; 0 for none.
func extension(m *sdp.MediaDescription, uri string) uint8 {
	for _, a := range m.Attributes {
		if a.Key != "extmap" {
			continue
		}
		if f := strings.Fields(a.Value); len(f) > 1 && f[1] == uri {
			n, _, _ := strings.Cut(f[0], "/")
			if v, err := strconv.ParseUint(n, 10, 8); err == nil {
				return uint8(v)
			}
		}
	}
	return 0
}

func list(names []string) string {
	if len(names) == 0 {
		return "no codec"
	}
	return printable(strings.Join(names, ", "))
}

type namedFormat struct {
	Format
	name string
}

// formats returns what the section says of its payload types, in its order.
func formats(m *sdp.MediaDescription) []namedFormat {
	var out []namedFormat
	for _, text := range m.MediaName.Formats {
		pt, err := strconv.ParseUint(text, 10, 7)
		if err != nil {
			continue
		}
		f := namedFormat{Format: Format{PayloadType: uint8(pt)}, name: staticName(uint8(pt))}
		for _, a := range m.Attributes {
			of, value, _ := strings.Cut(a.Value, " ")
			if of != text {
				continue
			}
			switch a.Key {
			case "rtpmap":
				f.name, _, _ = strings.Cut(value, "/")
			case "fmtp":
				f.Parameters = value
			case "rtcp-fb":
				f.Feedback = append(f.Feedback, value)
			}
		}
		if f.name != "" {
			out = append(out, f)
		}
	}
	return out
}

// staticName names the payload types that need no rtpmap.
func staticName(pt uint8) string {
	switch pt {
	case 0:
		return "PCMU"
	case 8:
		return "PCMA"
	case 9:
		return "G722"
	}
	return ""
}

func firstSSRC(m *sdp.MediaDescription) uint32 {
	for _, a := range m.Attributes {
		if a.Key == "ssrc" {
			n, _, _ := strings.Cut(a.Value, " ")
			v, _ := strconv.ParseUint(n, 10, 32)
			return uint32(v)
		}
	}
	return 0
}

// parameter returns the value of one parameter of an fmtp line; empty if absent.
func parameter(fmtp, name string) string {
	for p := range strings.SplitSeq(fmtp, ";") {
		if k, v, _ := strings.Cut(strings.TrimSpace(p), "="); strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

func parameterSets(fmtp string) [][]byte {
	var out [][]byte
	for _, name := range []string{"sprop-parameter-sets", "sprop-vps", "sprop-sps", "sprop-pps"} {
		for text := range strings.SplitSeq(parameter(fmtp, name), ",") {
			if b, err := base64.StdEncoding.DecodeString(text); err == nil && len(b) > 0 {
				out = append(out, b)
			}
		}
	}
	return out
}

// transport checks what every section needs of ICE and DTLS.
func (o *Offer) transport(d *sdp.SessionDescription) error {
	for _, m := range d.MediaDescriptions {
		get := func(key string) string {
			if v, ok := m.Attribute(key); ok {
				return v
			}
			v, _ := d.Attribute(key)
			return v
		}
		for _, key := range []string{"ice-ufrag", "ice-pwd", "fingerprint"} {
			if get(key) == "" {
				return &Refusal{Malformed, "the offer lacks " + key}
			}
		}
		if o.Ufrag == "" {
			o.Ufrag = get("ice-ufrag")
		}
		o.Passive = o.Passive || get("setup") == "passive"
	}
	return nil
}

// withoutSimulcast takes the layers out of the offer: the sender then sends one.
func withoutSimulcast(d *sdp.SessionDescription) *sdp.SessionDescription {
	for _, m := range d.MediaDescriptions {
		m.Attributes = slices.DeleteFunc(m.Attributes, func(a sdp.Attribute) bool {
			return a.Key == "simulcast" || a.Key == "rid"
		})
	}
	return d
}
