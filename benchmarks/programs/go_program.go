// The workloads on goroutines, on one processor (GOMAXPROCS=1); what they are says _program.py.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type figures map[string]float64

func ringSwitch(p map[string]int) figures {
	fibers, yields := p["fibers"], p["yields"]
	var start, end time.Time
	var ring sync.WaitGroup
	ring.Add(fibers)
	member := func(first bool) {
		defer ring.Done()
		runtime.Gosched() // Every other member starts and comes to this line.
		if first {
			start = time.Now()
		}
		for i := 0; i < yields; i++ {
			runtime.Gosched()
		}
		if first {
			end = time.Now()
		}
	}
	for i := 0; i < fibers; i++ {
		go member(i == 0)
	}
	ring.Wait()
	return figures{"ns": float64(end.Sub(start).Nanoseconds()) / float64(fibers*yields)}
}

func spawn(p map[string]int) figures {
	count := p["count"]
	start := time.Now()
	for i := 0; i < count; i++ {
		var done sync.WaitGroup
		done.Add(1)
		go done.Done()
		done.Wait()
	}
	return figures{"ns": float64(time.Since(start).Nanoseconds()) / float64(count)}
}

func sleep(p map[string]int) figures {
	fibers, sleeps := p["fibers"], p["sleeps"]
	var started int64
	var sleeping sync.WaitGroup
	sleeping.Add(fibers)
	for i := 0; i < fibers; i++ {
		go func(fiber int) {
			defer sleeping.Done()
			atomic.AddInt64(&started, 1)
			for turn := 0; turn < sleeps; turn++ {
				ms := 10 + (fiber*7919+turn*104729)%40
				if turn == 0 {
					ms += 300
				}
				time.Sleep(time.Duration(ms) * time.Millisecond)
			}
		}(i)
	}
	for atomic.LoadInt64(&started) < int64(fibers) {
		runtime.Gosched()
	}
	start := cpuSeconds()
	sleeping.Wait()
	return figures{"cpu_us": (cpuSeconds() - start) / float64(fibers*sleeps) * 1e6}
}

func lateness(p map[string]int) figures {
	late := make([]float64, p["count"])
	for i := range late {
		start := time.Now()
		time.Sleep(time.Millisecond)
		late[i] = float64((time.Since(start) - time.Millisecond).Nanoseconds()) / 1e3
	}
	sort.Float64s(late)
	return figures{"late_us": late[len(late)/2]}
}

type census struct{ started, unwound int64 }

//go:noinline
func first(c *census, gate chan struct{}, done *sync.WaitGroup) {
	defer done.Done()
	defer atomic.AddInt64(&c.unwound, 1)
	atomic.AddInt64(&c.started, 1)
	second(gate)
}

//go:noinline
func second(gate chan struct{}) { third(gate) }

//go:noinline
func third(gate chan struct{}) { <-gate }

func memory(p map[string]int) figures {
	fibers := p["fibers"]
	var c census
	var parked sync.WaitGroup
	gate := make(chan struct{})
	parked.Add(fibers)
	runtime.GC()
	rssBefore, pteBefore := residentBytes()
	start := time.Now()
	for i := 0; i < fibers; i++ {
		go first(&c, gate, &parked)
	}
	for atomic.LoadInt64(&c.started) < int64(fibers) {
		runtime.Gosched()
	}
	created := time.Now()
	rssAfter, pteAfter := residentBytes()
	close(gate)
	parked.Wait()
	if c.unwound != int64(fibers) {
		panic(fmt.Sprintf("%d of %d goroutines were unwound", c.unwound, fibers))
	}
	return figures{
		"rss_bytes": (rssAfter - rssBefore) / float64(fibers),
		"pte_bytes": (pteAfter - pteBefore) / float64(fibers),
		"create_s":  created.Sub(start).Seconds(),
		"unwind_s":  time.Since(created).Seconds(),
	}
}

const settleSeconds = 4.0 // as in _program.py

func sleepers(p map[string]int) figures {
	fibers := p["fibers"]
	late := make([]float64, fibers)
	var all sync.WaitGroup
	all.Add(fibers)
	start, cpuStart := time.Now(), cpuSeconds()
	left := func(fiber int) time.Duration {
		moment := settleSeconds + float64(fiber*7919%100003)/100003
		return time.Duration(moment*1e9) - time.Since(start)
	}
	for i := 0; i < fibers; i++ {
		go func(fiber int) {
			defer all.Done()
			time.Sleep(left(fiber))
			late[fiber] = -float64(left(fiber).Nanoseconds()) / 1e3
		}(i)
	}
	all.Wait()
	cpu := cpuSeconds() - cpuStart
	sort.Float64s(late)
	return figures{"cpu_us": cpu / float64(fibers) * 1e6, "late_p99_us": late[fibers*99/100]}
}

func channel(p map[string]int) figures {
	items := p["items"]
	c := make(chan int, p["capacity"])
	start := time.Now()
	go func() {
		for i := 0; i < items; i++ {
			c <- i
		}
	}()
	for i := 0; i < items; i++ {
		<-c
	}
	return figures{"ns": float64(time.Since(start).Nanoseconds()) / float64(items)}
}

func timeout(p map[string]int) figures {
	count := p["count"]
	background := context.Background()
	start := time.Now()
	for i := 0; i < count; i++ {
		_, cancel := context.WithTimeout(background, 5*time.Second)
		cancel()
	}
	return figures{"ns": float64(time.Since(start).Nanoseconds()) / float64(count)}
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// residentBytes gives VmRSS and VmPTE of this process.
func residentBytes() (rss, pageTables float64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		field := strings.Fields(line)
		if len(field) == 3 && field[0] == "VmRSS:" {
			rss, _ = strconv.ParseFloat(field[1], 64)
		}
		if len(field) == 3 && field[0] == "VmPTE:" {
			pageTables, _ = strconv.ParseFloat(field[1], 64)
		}
	}
	return rss * 1024, pageTables * 1024
}

func main() {
	runtime.GOMAXPROCS(1)
	workloads := map[string]func(map[string]int) figures{
		"switch": ringSwitch, "spawn": spawn, "sleep": sleep, "lateness": lateness, "memory": memory,
		"sleepers": sleepers, "channel": channel, "timeout": timeout,
	}
	parameters := map[string]int{}
	for _, assignment := range os.Args[2:] {
		key, value, _ := strings.Cut(assignment, "=")
		number, err := strconv.Atoi(value)
		if err != nil {
			panic(err)
		}
		parameters[key] = number
	}
	if err := json.NewEncoder(os.Stdout).Encode(workloads[os.Args[1]](parameters)); err != nil {
		panic(err)
	}
}
