package nat_test

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/chromedp/chromedp"
)

// playBrowser opens the publish page in Chromium, with its test picture, says what the
// page says of itself, and stays until it is ended.
func playBrowser(url string) error {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("headless", "new"), chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true), chromedp.Flag("autoplay-policy", "no-user-gesture-required"))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.Navigate(url)); err != nil {
		return err
	}
	last := ""
	for {
		var now string
		if err := chromedp.Run(ctx, chromedp.Evaluate(`document.body.dataset.state + ': ' + document.querySelector('#error').textContent`, &now)); err != nil {
			return err
		}
		if now != last {
			fmt.Println("PAGE", now)
			last = now
		}
		time.Sleep(100 * time.Millisecond) // and look again
	}
}
