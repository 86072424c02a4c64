package egressrtmp

import (
	"time"

	"github.com/headgate/gateway/sdk"
)

// Where several rows stand.
const (
	obsServices = "https://github.com/obsproject/obs-studio/blob/master/plugins/rtmp-services/data/services.json"
	ivsStage    = "https://docs.aws.amazon.com/ivs/latest/RealTimeUserGuide/rt-stream-ingest.html"
	checked     = "2026-11-28"
)

// strict orders sound and picture by time: services that package what arrives in
// the order of arrival need it.
var strict = map[string]any{"interleave": InterleaveStrict}

// presets are the services that this plugin knows: one row per service, and
// docs/presets.md is made of it. Limits are what the page in Source says, where it
// says two things the one that is enforced. A row that nobody found on a page of
// the service itself says Unverified; what it has then is hearsay, and users are
// told so.
func presets() []sdk.Preset {
	tls := []string{"rtmps"}
	return []sdk.Preset{
		{
			Name: "youtube", Title: "YouTube Live",
			URL: "rtmps://a.rtmps.youtube.com/live2", BackupURL: "rtmps://b.rtmps.youtube.com/live2?backup=1",
			Hosts: []string{"youtube.com"}, Schemes: tls, Options: strict,
			Limits: sdk.Limits{KeyframeInterval: 4 * time.Second, VideoBPS: 51_000_000, AudioBPS: 160_000, FrameRate: 60, Height: 2160, NeedsVideo: true, NeedsAudio: true},
			Source: "https://support.google.com/youtube/answer/2853702", Checked: checked,
			Note: "Two seconds between keyframes are recommended. The same key serves the backup; mode: both sends to the two at once.",
		},
		{
			Name: "twitch", Title: "Twitch",
			URL: "rtmp://live.twitch.tv/app", Hosts: []string{"twitch.tv"}, Options: strict,
			Limits: sdk.Limits{KeyframeInterval: 2 * time.Second, VideoBPS: 6_000_000, AudioBPS: 320_000, FrameRate: 60, Duration: 48 * time.Hour, NeedsVideo: true},
			Source: "https://help.twitch.tv/customer/portal/articles/1253460-broadcast-requirements", Checked: checked,
			Note: "Twitch lists an address per city, rtmp://live-NNN.twitch.tv/app; one nearby is better than the general one.",
		},
		{
			Name: "facebook", Title: "Facebook Live",
			URL: "rtmps://rtmp-api.facebook.com/rtmp", Hosts: []string{"facebook.com"}, Schemes: tls, Options: map[string]any{"interleave": InterleaveStrict, "on_change": ChangeReconnect},
			Limits: sdk.Limits{KeyframeInterval: 4 * time.Second, VideoBPS: 9_000_000, AudioBPS: 256_000, FrameRate: 60, Height: 1080, Duration: 8 * time.Hour, NeedsVideo: true, NeedsAudio: true},
			Source: "https://developers.facebook.com/docs/live-video-api/reference", Checked: checked,
			Note: "Two seconds between keyframes are recommended. Settings must not change while live, so a new decoder config becomes a new connection.",
		},
		{
			Name: "kick", Title: "Kick",
			Schemes: tls, Options: strict, Limits: sdk.Limits{KeyframeInterval: 2 * time.Second, NeedsVideo: true},
			Source: ivsStage, Checked: checked, Unverified: true,
			Note: "Kick has no public page about it; it is said to run on Amazon IVS. Its creator dashboard shows the URL.",
		},
		{
			Name: "ivs", Title: "Amazon IVS, low-latency channel",
			Hosts: []string{"live-video.net"}, Schemes: tls, Options: strict,
			Limits: sdk.Limits{KeyframeInterval: 2 * time.Second, NeedsVideo: true},
			Source: "https://docs.aws.amazon.com/ivs/latest/LowLatencyUserGuide/streaming-config.html", Checked: checked,
			Note: "Every channel has an address of its own, rtmps://ID.global-contribute.live-video.net/app, and a bitrate by its type.",
		},
		{
			Name: "ivs-stage", Title: "Amazon IVS, real-time stage",
			Schemes: tls, Options: strict,
			Limits: sdk.Limits{KeyframeInterval: 2 * time.Second, VideoBPS: 8_500_000, AudioBPS: 160_000, FrameRate: 60, Height: 720, NoBFrames: true, NeedsVideo: true},
			Source: ivsStage, Checked: checked,
			Note: "A stage disconnects a stream with B-frames. The stage shows its address.",
		},
		{
			Name: "cloudflare", Title: "Cloudflare Stream",
			URL: "rtmps://live.cloudflare.com/live", Hosts: []string{"live.cloudflare.com"}, Schemes: tls, Options: strict,
			Source: "https://developers.cloudflare.com/stream/stream-live/start-stream-live/", Checked: checked,
			Note: "The page names no limits.",
		},
		{
			Name: "mux", Title: "Mux",
			URL: "rtmps://global-live.mux.com/app", Hosts: []string{"global-live.mux.com"}, Schemes: tls, Options: strict,
			Limits: sdk.Limits{KeyframeInterval: 2 * time.Second, VideoBPS: 5_000_000, AudioBPS: 160_000, NeedsVideo: true},
			Source: "https://www.mux.com/docs/guides/configure-broadcast-software", Checked: checked,
			Note: "The limits are those that OBS Studio has for it. Mux waits 60 s for a stream to come back, unless the live stream says otherwise.",
		},
		{
			Name: "x", Title: "X (Twitter)",
			URL: "rtmp://va.pscp.tv:80/x", Hosts: []string{"pscp.tv"}, Options: strict,
			Limits: sdk.Limits{KeyframeInterval: 3 * time.Second, VideoBPS: 12_000_000, AudioBPS: 128_000, FrameRate: 60, NeedsVideo: true},
			Source: obsServices, Checked: checked, Unverified: true,
			Note: "Known from OBS Studio alone; other regions are rtmp://or.pscp.tv:80/x and rtmp://ca.pscp.tv:80/x.",
		},
		{
			Name: "linkedin", Title: "LinkedIn Live",
			Options: strict,
			Limits:  sdk.Limits{KeyframeInterval: 2 * time.Second, VideoBPS: 6_000_000, AudioBPS: 128_000, FrameRate: 30, Height: 1080, NeedsVideo: true, NeedsAudio: true},
			Source:  "https://help.syncwords.com/live/send-captions-to-linkedin-rtmp-608", Checked: checked, Unverified: true,
			Note: "Known from a third party, which recommends 720p at 3.5 Mb/s. Every event has an address of its own.",
		},
		{
			Name: "medialive", Title: "AWS Elemental MediaLive",
			Hosts: []string{"channel.media.aws"}, Schemes: []string{"rtmp"}, Options: strict,
			Source: "https://docs.aws.amazon.com/medialive/latest/ug/setup-input-rtmp-push.html", Checked: checked,
			Note: "An RTMP push input takes no TLS. An input of the class STANDARD has two addresses: give the second as backup, with mode: both.",
		},
		{
			Name: "akamai", Title: "Akamai Media Services Live",
			Hosts: []string{"akamaientrypoint.net"}, Options: strict,
			Source: "https://gist.github.com/mmcc/4711344", Checked: checked, Unverified: true,
			Note: "Known from users: every stream has rtmp://p.epNNNNN.i.akamaientrypoint.net/EntryPoint, the same with b. as backup, and a login, which belongs into the URL.",
		},
		{
			Name: "fastly", Title: "Fastly",
			Options: strict,
			Source:  "https://www.fastly.com/documentation/guides/full-site-delivery/video/streaming-configuration-guidelines", Checked: checked, Unverified: true,
			Note: "Fastly's pages tell of delivery over HTTP alone; what takes RTMP in front of it has the limits.",
		},
		{
			Name: "azure", Title: "Azure Media Services",
			Hosts: []string{"channel.media.azure.net"}, Schemes: tls, Options: strict,
			Source: "https://learn.microsoft.com/azure/media-services/latest/live-event-concept", Checked: checked, Unverified: true,
			Note: "Microsoft announced its end for 30 June 2024; nobody looked whether anything still answers.",
		},
	}
}
