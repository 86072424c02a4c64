package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate/gateway/core/config"
	"github.com/headgate/gateway/core/pluginhost"
	"github.com/headgate/gateway/internal/endpoint"
	rtmpingest "github.com/headgate/gateway/plugins/ingest-rtmp"
)

// A door is a port that a built-in plugin opens for those who come.
type door struct {
	network string // tcp or udp
	option  string // that names the address
	addr    string
	instead string // what else to do about a port that is taken; may be empty

	// publish is the URL by which encoders reach a stream there, by the protocol of that
	// name; nil: it is not the one that they are told.
	protocol string
	publish  func(addr, stream, token string) string
}

// read is options decoded into v, as far as they can be: what is wrong with them has been
// said.
func read[T any](options []byte) (v T) {
	_ = json.Unmarshal(options, &v)
	return v
}

func rtmpDoors(options []byte) []door {
	o := read[struct {
		Listen string
		TLS    struct{ Listen string }
	}](options)
	if o.TLS.Listen == "" {
		o.Listen = cmp.Or(o.Listen, rtmpingest.DefaultListen)
	}
	by := func(scheme string) func(addr, stream, token string) string {
		return func(addr, stream, token string) string {
			return strings.TrimSuffix(scheme+"://"+addr+"/"+stream+"/"+token, "/")
		}
	}
	return []door{
		{network: "tcp", option: "listen", addr: o.Listen, protocol: "RTMP", publish: by("rtmp")},
		{network: "tcp", option: "tls.listen", addr: o.TLS.Listen, protocol: "RTMPS", publish: by("rtmps")},
	}
}

func rtspDoors(options []byte) []door {
	o := read[struct {
		Listen    string
		ListenUDP string `json:"listen_udp"`
		ListenTLS string `json:"listen_tls"`
	}](options)
	by := func(scheme string) func(addr, stream, token string) string {
		return func(addr, stream, token string) string { return scheme + "://" + addr + "/" + stream + query(token) }
	}
	return []door{
		{network: "tcp", option: "listen", addr: o.Listen, protocol: "RTSP", publish: by("rtsp")},
		{network: "tcp", option: "listen_tls", addr: o.ListenTLS, protocol: "RTSPS", publish: by("rtsps")},
		{network: "udp", option: "listen_udp", addr: o.ListenUDP},
		{network: "udp", option: "listen_udp", addr: nextPort(o.ListenUDP)}, // of RTCP
	}
}

// nextPort is addr with the port behind its own.
func nextPort(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(n+1))
}

func srtDoors(options []byte) []door {
	o := read[struct {
		Listen      string
		Passphrase  string
		Passphrases map[string]string
	}](options)
	return []door{{network: "udp", option: "listen", addr: o.Listen, protocol: "SRT", publish: func(addr, stream, token string) string {
		url := "srt://" + addr + "?streamid=" + stream + query(token)
		if o.Passphrase != "" || o.Passphrases[stream] != "" {
			url += "&passphrase=PASSPHRASE" // that of the configuration
		}
		return url
	}}}
}

func webrtcDoors(options []byte) []door {
	o := read[struct{ UDP, TCP, TURN string }](options)
	doors := []door{{network: "udp", option: "udp", addr: o.UDP}}
	if o.TCP != "off" {
		doors = append(doors, door{network: "tcp", option: "tcp", addr: cmp.Or(o.TCP, o.UDP), instead: "do without by off"})
	}
	return append(doors, door{network: "udp", option: "turn", addr: o.TURN}, door{network: "tcp", option: "turn", addr: o.TURN})
}

// query is a token in the query of a URL, if there is one.
func query(token string) string {
	if token == "" {
		return ""
	}
	return "?token=" + token
}

// doorsOf are those that a plugin with these options opens.
func doorsOf(plugin string, options []byte) (list []door) {
	i := slices.IndexFunc(builtIns(), func(b builtIn) bool { return b.name == plugin && b.doors != nil })
	if i < 0 {
		return nil
	}
	for _, d := range builtIns()[i].doors(options) {
		if d.addr != "" {
			list = append(list, d)
		}
	}
	return list
}

// opened are the doors of the plugins that a configuration names.
func opened(cfg *config.Config) (list []door) {
	for _, p := range cfg.Plugins {
		list = append(list, doorsOf(p.Name, p.Options)...)
	}
	return list
}

// local is an address to listen on as who is on this machine writes it.
func local(addr string) string {
	if host, port, err := net.SplitHostPort(addr); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return addr
}

// probe opens the doors of the plugins and closes them again: one that is taken is
// reported here, with its key, rather than by a plugin that cannot start.
func probe(ctx context.Context, cfg *config.Config, plugins []pluginhost.Spec) error {
	type keyed struct {
		door
		key string
	}
	all := []keyed{{door{network: "tcp", addr: cfg.Listen}, "listen"}, {door{network: "tcp", addr: cfg.Admin}, "admin"}}
	for _, p := range plugins {
		if p.Socket != "" || !opensDoors(cfg, p.Name) {
			continue // it has been started, or will not be
		}
		for _, d := range doorsOf(p.Name, p.Options) {
			key := "plugins." + p.Name + ".options." + d.option
			for _, h := range all {
				if h.network == d.network && endpoint.Apart("", d.addr, "", h.addr) != nil {
					return fmt.Errorf("%s: %s is the address of %s already: give one of the two another port", key, d.addr, h.key)
				}
			}
			all = append(all, keyed{d, key})
		}
	}
	for _, d := range all[2:] { // the gateway's own are open
		c, err := d.open(ctx)
		if err != nil {
			remedy := "choose another with the key " + d.key + " of the configuration or with " + variableOf(d.key)
			if d.instead != "" {
				remedy += ", or " + d.instead
			}
			return listenError(d.key, d.addr, remedy, err)
		}
		_ = c.Close() // the plugin opens it again
	}
	return nil
}

// opensDoors reports whether a built-in plugin is started before anybody asks for it: one
// that the configuration names, and the one for WHIP where a route has publishers.
func opensDoors(cfg *config.Config, plugin string) bool {
	if plugin == webrtcPlugin {
		return slices.ContainsFunc(cfg.Routes, func(r config.Route) bool { return r.From == nil })
	}
	return slices.ContainsFunc(cfg.Plugins, func(p config.Plugin) bool { return p.Name == plugin })
}

// open opens the door. The plugins of a gateway that was killed take a moment longer to
// end than itself: one that is taken is tried for half a second.
func (d door) open(ctx context.Context) (c io.Closer, err error) {
	const attempts, pause = 6, 100 * time.Millisecond
	for n := range attempts {
		if n > 0 {
			time.Sleep(pause)
		}
		if d.network == "udp" {
			c, err = (&net.ListenConfig{}).ListenPacket(ctx, d.network, d.addr)
		} else {
			c, err = (&net.ListenConfig{}).Listen(ctx, d.network, d.addr)
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return c, err
}

// variableOf is the variable of the environment that stands for a key.
func variableOf(key string) string {
	return "GATEWAY_" + strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(key))
}

// listenError says in plain words why addr cannot be listened on.
func listenError(what, addr, remedy string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %s is used by another program: end it, or %s", what, addr, remedy)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: no permission to listen on %s: ports below 1024 need CAP_NET_BIND_SERVICE; or %s", what, addr, remedy)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this machine does not have the address %s: %s", what, addr, remedy)
	default:
		return fmt.Errorf("%s: listening on %s: %w: %s", what, addr, err, remedy)
	}
}
