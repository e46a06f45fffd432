// Echo server: a goroutine for each connection, all on one processor (GOMAXPROCS=1).
package main

import (
	"fmt"
	"net"
	"runtime"
)

const readBytes = 64 * 1024

func serve(connection *net.TCPConn) {
	defer connection.Close()
	if err := connection.SetNoDelay(true); err != nil {
		return
	}
	buffer := make([]byte, readBytes)
	for {
		count, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err = connection.Write(buffer[:count]); err != nil {
			return
		}
	}
}

func main() {
	runtime.GOMAXPROCS(1)
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := listener.AcceptTCP()
		if err != nil {
			panic(err)
		}
		go serve(connection)
	}
}
