//go:build !linux

package pluginhost

func forbidLandlock() {} // there is none
