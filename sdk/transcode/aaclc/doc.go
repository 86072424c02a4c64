// Package aaclc is an encoder of AAC-LC (ISO/IEC 14496-3, subpart 4): 1024 samples
// of one or two channels in, one access unit out, at a constant bitrate.
//
// It knows sound, masking and the bitstream. It knows nothing of time stamps, of
// containers and transports, of other codecs, or of where samples come from; the
// package above it does.
//
// # How it works
//
// An encoder of this kind removes what nobody hears. It turns sound into a spectrum,
// asks of every band how much error the sound itself hides there, and rounds
// the lines of the spectrum as coarsely as that allows, or as the bitrate
// demands. The decoder needs no such knowledge; it is told step sizes and numbers.
//
//	samples                                                    file
//	   │
//	   ├──────────────► attacks ahead? ─► which windows        attack.go
//	   ▼                                      │
//	 MDCT  ◄──────────────────────────────────┘                mdct.go, fft.go
//	   │ 1024 lines, or eight times 128
//	   ├──────────────► energies ─► spreading ─► masks         psy.go
//	   ▼                                           │
//	 temporal noise shaping (per channel)          │           tns.go
//	   ▼                                           │
//	 noise by its energy alone (low rates) ◄───────┤           noise.go
//	   ▼                                           │
//	 left/right, mid/side or intensity (per band) ◄┤           stereo.go
//	   ▼                                           ▼
//	 trial quantisation ─► bits, errors ─► cut: how far        rate.go, quant.go
//	   │                                   error is from mask
//	   ▼                                           │   ▲
//	 scalefactors (least bits by a short trellis) ◄┘   │       scale.go
//	   ▼                                               │
//	 quantisation ─► Huffman books by sections ────────┤       huffman.go, section.go
//	   ▼                                               ▼
//	 bitstream ─► access unit                    bit reservoir  syntax.go, bits.go
//
// The numbers of the standard are in bands.go and codebooks.go.
//
// A cut of -4, say, means that error lies a factor of 2^4, 12 dB, below its mask:
// masks, energies and cuts are binary logarithms throughout, for sums are what is
// made of them.
//
// The plan is that of 3GPP TS 26.403: one pass, thresholds in closed form, no search
// over quantisations. Where the plan leaves freedom, or a later decade has faster
// machines, this encoder takes another way, and the file says which: rate control
// measures one trial quantisation instead of estimating perceptual entropy;
// scalefactors and sections are chosen by dynamic programming, which is
// exact and costs little; the spreading of masking is summed as loudness
// (ITU-R BS.1387) rather than by the largest; and what error each band bears when
// bits are short follows from how many lines share its part of the ear.
//
// Two of the tools are for low rates in most encoders; what they are worth here was
// measured over the items of test/audiobench. Substituted noise wins up to 56 kb/s per
// channel: at 48, 64 and 96 kb/s stereo the log spectral distance is 12.0, 8.6 and 5.8
// with it, 15.2, 11.7 and 6.4 without, at a noise-to-mask ratio, which knows no noise but
// error, that is worse by 0.5, 0.1 and 0 dB. Intensity as those encoders use it, above
// 5 kHz wherever the channels are alike, changes that ratio by -0.1 to +0.25 dB from 32 to
// 96 kb/s, and spoils phases. Used where its error is masked, at every frequency, it wins at
// every rate: 0.3 dB at 48 kb/s, 0.5 at 64, 0.6 at 96 and 0.4 at 128, and 5.0 to 6.6 dB at 64
// to 128 for a dialogue whose voices are placed by level.
//
// Not used are pulses and TNS in short windows. (LC has no prediction in time
// and no gain control.)
//
// # Effort
//
// [Encoder.SetFast] takes more than a fifth of the work away, for a machine that has too
// little time: measured over the items of test/audiobench at 128 kb/s stereo, 43 us per
// frame where it was 55, a noise-to-mask ratio of -20.0 dB where it was -20.4, and audible
// noise in half a percent of the frames either way.
//
// # What is always true
//
// After New has accepted a configuration, every call of Encode with the right
// number of samples appends a legal access unit, whatever the samples are; every
// loop is bounded. No unit exceeds 6144 bits per channel, a decoder's buffer never
// overflows or runs dry, and the bitrate over any second is within 10 % of the one
// asked for. A call allocates nothing but what dst lacks.
//
// # Delay
//
// The window of the unit that a call returns ends 448 samples before the newest
// sample: so far ahead must be looked for attacks to switch windows in time. Its
// first half is what a decoder puts out with that unit. Hence 1024 + 448 samples, 30.7 ms at
// 48 kHz; 52 ms from the first sample of a unit to the unit.
package aaclc
