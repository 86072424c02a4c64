"""Publishes a test picture and tone by GStreamer's webrtcbin over WHIP, until it is
ended. usage: whip.py URL TOKEN"""
import sys
import urllib.request

import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC

PIPELINE = """
webrtcbin name=send bundle-policy=max-bundle
videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 ! videoconvert
  ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=60 bitrate=800 ! video/x-h264,profile=constrained-baseline
  ! rtph264pay config-interval=-1 aggregate-mode=zero-latency pt=96
  ! application/x-rtp,media=video,encoding-name=H264,payload=96 ! send.
audiotestsrc is-live=true wave=ticks ! audio/x-raw,rate=48000,channels=2 ! audioconvert ! audioresample ! opusenc
  ! rtpopuspay pt=97 ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97,encoding-params=(string)2 ! send.
"""


def main():
    url, token = sys.argv[1:3]
    Gst.init(None)
    pipeline = Gst.parse_launch(PIPELINE)
    webrtc = pipeline.get_by_name("send")
    loop = GLib.MainLoop()

    def gathered(element, _):
        if element.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            return
        offer = element.get_property("local-description").sdp.as_text()
        print("OFFER", repr(offer), flush=True)
        request = urllib.request.Request(url, offer.encode(), {"Content-Type": "application/sdp", "Authorization": "Bearer " + token})
        try:
            answer = urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as e:
            print("REFUSED", e.code, e.read().decode(), flush=True)
            loop.quit()
            return
        _, message = GstSdp.SDPMessage.new_from_text(answer.decode())
        element.emit("set-remote-description",
                     GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message), None)

    def ask():
        if not all(pad.get_current_caps() for pad in webrtc.sinkpads):
            return True  # it is not known yet what is sent: again
        webrtc.emit("create-offer", None, Gst.Promise.new_with_change_func(offered, webrtc, None))
        return False

    def offered(promise, element, _):
        reply = promise.get_reply()  # owns the offer
        element.emit("set-local-description", reply.get_value("offer"), None)

    def state(element, _):
        print("STATE", element.get_property("connection-state").value_nick, flush=True)

    webrtc.connect("notify::ice-gathering-state", gathered)
    webrtc.connect("notify::connection-state", state)
    for i in range(2):
        webrtc.emit("get-transceiver", i).set_property("direction", GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY)
    pipeline.set_state(Gst.State.PLAYING)
    GLib.timeout_add(50, ask)
    loop.run()


main()
