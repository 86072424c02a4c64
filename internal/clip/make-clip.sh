#!/bin/sh
# Makes clip.h264 and clip.opus, the test card that this package embeds, with the
# ffmpeg of Debian's packages (apt-get install ffmpeg). Run it in this folder.
#
# The card lasts 10 s and loops without a seam: 300 pictures, 500 Opus packets.
# Half a second after every whole second a white square lights up at the lower
# right and a beep sounds (1000 Hz left, 1500 Hz right), both for 100 ms. A clock
# runs at the upper left.
#
# Opus comes out of a decoder 312 samples late. The sound is cut by as much at
# its (silent) beginning, so that the first sample decoded of packet n is that of
# the instant n * 20 ms, and nothing has to be skipped at the start.
set -eu

ffmpeg -v error -y \
	-f lavfi -i "testsrc2=size=640x360:rate=30:duration=10" \
	-vf "drawbox=x=464:y=184:w=160:h=160:color=black:t=fill,drawbox=x=464:y=184:w=160:h=160:color=white:t=fill:enable='lt(mod(n+15,30),3)',format=yuv420p" \
	-c:v libx264 -profile:v baseline -preset veryslow -bf 0 -g 30 -keyint_min 30 -sc_threshold 0 \
	-b:v 600k -maxrate 700k -bufsize 700k -threads 1 \
	-x264-params "sliced-threads=0:slices=1" \
	-bsf:v "h264_metadata=aud=insert,filter_units=remove_types=6" \
	-f h264 clip.h264

ffmpeg -v error -y \
	-f lavfi -i "aevalsrc='0.5*sin(2*PI*1000*t)*lt(mod(t+0.5,1),0.1)|0.5*sin(2*PI*1500*t)*lt(mod(t+0.5,1),0.1)':s=48000:c=stereo:d=10.1" \
	-af "atrim=start_sample=312,asetpts=PTS-STARTPTS" \
	-c:a libopus -b:a 64k -vbr on -application audio -frame_duration 20 \
	-map_metadata -1 -fflags +bitexact -flags:a +bitexact \
	-f ogg clip.opus
