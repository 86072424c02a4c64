package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pion/webrtc/v4/pkg/media/ivfreader"

	"github.com/headgate/gateway/internal/whipclient"
	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/media/av1"
	"github.com/headgate/gateway/sdk/media/h264"
	"github.com/headgate/gateway/sdk/media/h265"
	"github.com/headgate/gateway/sdk/media/vp9"
)

// add appends a picture at its time.
func add(m *whipclient.Media, u *media.AccessUnit) {
	i := len(m.Units)
	at := time.Duration(i) * time.Second / pictureRate
	u.Track, u.Seq, u.PTS, u.DTS = 1, uint32(i), at, at
	m.Units = append(m.Units, u)
}

// pictures265 reads H.265 with one slice per picture.
func pictures265(stream []byte) (*whipclient.Media, error) {
	nalus, err := h264.SplitAnnexB(nil, stream)
	if err != nil {
		return nil, err
	}
	m := &whipclient.Media{}
	var sets h265.ParameterSets
	var picture h265.Picture
	for from, i := 0, 0; i < len(nalus); i++ {
		if !h265.TypeOf(nalus[i]).IsVCL() {
			continue
		}
		if err := picture.Normalize(nalus[from : i+1]); err != nil {
			return nil, err
		}
		from = i + 1
		if _, err := sets.Update(picture.VPS, picture.SPS, picture.PPS); err != nil {
			return nil, err
		}
		add(m, &media.AccessUnit{RandomAccess: picture.RandomAccess, Payload: h264.AppendLengthPrefixed(nil, picture.NALUs...)})
	}
	config, ok := sets.Config()
	if !ok {
		return nil, errors.New("no parameter sets")
	}
	hvcC, err := config.Marshal()
	if err != nil {
		return nil, err
	}
	m.Track = media.Track{ID: 1, Codec: media.H265, DecoderConfig: hvcC, FrameRate: pictureRate}
	return m, nil
}

// frames reads an IVF file.
func frames(file []byte) (*whipclient.Media, error) {
	r, header, err := ivfreader.NewWith(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	m := &whipclient.Media{Track: media.Track{ID: 1, FrameRate: pictureRate}}
	for {
		frame, _, err := r.ParseNextFrame()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		switch header.FourCC {
		case "AV01":
			m.Track.Codec = media.AV1
			err = addAV1(m, frame)
		case "VP90":
			m.Track.Codec = media.VP9
			var h vp9.Header
			h, err = vp9.ParseHeader(frame)
			add(m, &media.AccessUnit{RandomAccess: h.KeyFrame, Payload: frame})
		default:
			err = fmt.Errorf("a file of %q: want AV01 or VP90", header.FourCC)
		}
		if err != nil {
			return nil, err
		}
	}
}

// addAV1 adds a temporal unit without its delimiter.
func addAV1(m *whipclient.Media, unit []byte) error {
	obus, err := av1.Split(nil, unit)
	if err != nil {
		return err
	}
	is := av1.Inspect(obus)
	if is.SequenceHeader != nil && m.Track.DecoderConfig == nil {
		if m.Track.DecoderConfig, _, err = av1.DecoderConfig(is.SequenceHeader); err != nil {
			return err
		}
	}
	u := &media.AccessUnit{RandomAccess: is.KeyFrame && is.SequenceHeader != nil}
	for _, o := range obus {
		if o.Type != av1.TypeTemporalDelimiter {
			u.Payload = o.Append(u.Payload)
		}
	}
	add(m, u)
	return nil
}
